"""Beam's own options: which flags exist, and what every pipeline of ours sets."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
from collections.abc import Sequence

from apache_beam.options import pipeline_options
from apache_beam.options.pipeline_options import (
    DebugOptions,
    DirectOptions,
    PipelineOptions,
    PortableOptions,
    SetupOptions,
    StandardOptions,
    TypeOptions,
    WorkerOptions,
)
from apache_beam.runners.runner import create_runner

from featurestore.cli.command import VERBOSE, Parser
from featurestore.errors import UsageError, one_line
from featurestore.io.readahead import cores

LOCAL_RUNNERS = ("directrunner", "direct", "switchingdirectrunner", "bundlebaseddirectrunner")


def _beam_actions() -> list[argparse.Action]:
    parser = pipeline_options._BeamArgumentParser(add_help=False, conflict_handler="resolve")
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    return parser._actions


def beam_flags() -> list[str]:
    """Lists every flag that Beam knows."""
    return [name for action in _beam_actions() for name in action.option_strings]


def split_unknown(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separates what Beam understands from what nobody does.

    Args:
      arguments: left over by our own parser.

    Returns:
      (Beam's arguments, unknown ones).
    """
    takes_value = {
        name: action.nargs != 0 for action in _beam_actions() for name in action.option_strings
    }
    beam: list[str] = []
    unknown: list[str] = []
    awaits_value = False
    for argument in arguments:
        flag = argument.split("=")[0]
        if flag.startswith("--"):
            awaits_value = takes_value.get(flag, False) and "=" not in argument
            (beam if flag in takes_value else unknown).append(argument)
        else:
            (beam if awaits_value else unknown).append(argument)
            awaits_value = False
    return beam, unknown


def check_beam_arguments(parser: Parser, rest: Sequence[str]) -> tuple[str, ...]:
    """Returns what a command's own parser left over, when Beam knows it all.

    Args:
      parser: of the command, to suggest its flags too.
      rest: the arguments left over.

    Raises:
      UsageError: for an unknown flag, near ones suggested, or a bad value.
    """
    arguments, unknown = split_unknown(rest)
    parser.refuse_unknown(unknown, beam_flags())
    check_arguments(arguments)
    return tuple(arguments)


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuses values that Beam would refuse only later, and in many lines.

    Raises:
      UsageError: for a value of the wrong type, an unknown runner or a negative worker count.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options = PipelineOptions(list(arguments))
            workers = options.view_as(DirectOptions).direct_num_workers
            create_runner(runner_name(options))
    except SystemExit as error:
        lines = said.getvalue().strip().splitlines() or ["a flag of Beam's is wrong"]
        raise UsageError(lines[-1].partition("error: ")[2] or lines[-1]) from error
    except (ValueError, ImportError, AttributeError) as error:
        raise UsageError(f"--runner: {one_line(error)}") from error
    if workers < 0:
        raise UsageError(f"--direct_num_workers must be 0 (all cores) or more, got {workers}")


def make_options(arguments: Sequence[str]) -> PipelineOptions:
    """Builds the options of a pipeline of ours.

    Args:
      arguments: Beam's own flags.
    """
    options = PipelineOptions(list(arguments))
    # Our modules are installed on the workers; pickling the main session would only break.
    options.view_as(SetupOptions).save_main_session = False
    if runs_here(options) and not os.environ.get(VERBOSE):
        # Worker processes on this machine write to the user's terminal.
        options.view_as(WorkerOptions).default_sdk_harness_log_level = "CRITICAL"
    if is_local(options):
        direct = options.view_as(DirectOptions)
        # Beam would start a process per core of the machine, also where this one has only a few.
        direct.direct_num_workers = direct.direct_num_workers or cores()
        # The local runner first tries Prism, which wants a download. A pipeline that allows unsafe
        # triggers is not eligible for it, and ours have no triggers at all.
        options.view_as(TypeOptions).allow_unsafe_triggers = True
    if runner_name(options).rsplit(".", 1)[-1] == "DataflowRunner":
        # Dataflow would start a process for each core, and each of ours takes all cores of its
        # machine: as many copies of the base.
        options.view_as(DebugOptions).add_experiment("no_use_multiple_sdk_containers")
    return options


def runner_name(options: PipelineOptions) -> str:
    """Returns the runner's name as the user gave it, ``DirectRunner`` by default."""
    return options.view_as(StandardOptions).runner or "DirectRunner"


def is_local(options: PipelineOptions) -> bool:
    """Whether the pipeline runs on Beam's local runner."""
    return runner_name(options).rsplit(".", 1)[-1].lower() in LOCAL_RUNNERS


def runs_here(options: PipelineOptions) -> bool:
    """Whether workers share this machine with the driver."""
    portable = options.view_as(PortableOptions)
    return is_local(options) or portable.environment_type in ("LOOPBACK", "SUBPROCESS_SDK")


def process_count(options: PipelineOptions) -> int:
    """Returns how many worker processes share this machine's cores."""
    direct = options.view_as(DirectOptions)
    if not is_local(options) or direct.direct_running_mode != "multi_processing":
        return 1
    return direct.direct_num_workers
