"""Beam's own options: its flags, and the settings of all our pipelines."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping, Sequence

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
from featurestore.io.cores import cores

LOCAL_RUNNERS = ("directrunner", "direct", "switchingdirectrunner", "bundlebaseddirectrunner")


def _beam_flags() -> dict[str, bool]:
    """Returns every flag that Beam knows, and whether it takes a value."""
    parser = pipeline_options._BeamArgumentParser(add_help=False, conflict_handler="resolve")
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    return {name: action.nargs != 0 for action in parser._actions for name in action.option_strings}


def _split_unknown(
    arguments: Sequence[str], takes_value: Mapping[str, bool]
) -> tuple[list[str], list[str]]:
    """Returns (the arguments that Beam knows, unknown ones)."""
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
    """Returns the arguments that a command's own parser left over, if Beam accepts them all.

    Args:
      parser: of the command, whose flags are suggested too.
      rest: the arguments that it left over.

    Raises:
      UsageError: for a bad value, or for an unknown flag, with the nearest known one.
    """
    flags = _beam_flags()
    arguments, unknown = _split_unknown(rest, flags)
    parser.refuse_unknown(unknown, list(flags))
    _check_values(arguments)
    return tuple(arguments)


def _check_values(arguments: Sequence[str]) -> None:
    """Refuses bad values at once and in one line; Beam would do so later and in many."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options = PipelineOptions(list(arguments))
            workers = options.view_as(DirectOptions).direct_num_workers
            create_runner(runner_name(options))
    except SystemExit as error:
        lines = said.getvalue().strip().splitlines() or ["one of Beam's flags is wrong"]
        raise UsageError(lines[-1].partition("error: ")[2] or lines[-1]) from error
    except (ValueError, ImportError, AttributeError) as error:
        raise UsageError(f"--runner: {one_line(error)}") from error
    if workers < 0:
        raise UsageError(f"--direct_num_workers must be 0 (all cores) or more, got {workers}")


def make_options(arguments: Sequence[str]) -> PipelineOptions:
    """Builds the options of one of our pipelines.

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
        # Beam would count the machine's cores, of which this process may use only a few.
        direct.direct_num_workers = direct.direct_num_workers or cores()
        # The local runner first tries Prism, which needs a download. Beam does not try it for a
        # pipeline that allows unsafe triggers, and ours have no triggers at all.
        options.view_as(TypeOptions).allow_unsafe_triggers = True
    if runner_name(options).rsplit(".", 1)[-1] == "DataflowRunner":
        # Dataflow would start a process per core, each with a copy of the base; but one of our
        # processes uses all cores of its machine.
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
