"""Beam's own options: its flags, and the settings of all our pipelines."""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches

from apache_beam.options import pipeline_options
from apache_beam.options.pipeline_options import (
    DebugOptions,
    DirectOptions,
    FlinkRunnerOptions,
    PipelineOptions,
    PortableOptions,
    SetupOptions,
    SparkRunnerOptions,
    StandardOptions,
    TypeOptions,
    WorkerOptions,
)
from apache_beam.runners.portability.flink_runner import MAGIC_HOST_NAMES
from apache_beam.runners.portability.portable_runner import PortableRunner
from apache_beam.runners.portability.spark_runner import LOCAL_MASTER_PATTERN
from apache_beam.runners.runner import PipelineRunner, create_runner

from featurestore.cli.command import VERBOSE, Parser
from featurestore.errors import UsageError, one_line, unknown_choice
from featurestore.io.cores import cores
from featurestore.io.urls import is_on_disk
from pipelines.beam import dask
from pipelines.beam.loading import is_local_runner
from pipelines.extraction.share import default_processes

DEFAULT_RUNNER = "DirectRunner"
DASK_RUNNER = "apache_beam.runners.dask.dask_runner.DaskRunner"
# A user who gives one of these has chosen the processes.
_PROCESS_FLAGS = ("--direct_num_workers", "--direct_running_mode")
# What installs the packages that a runner of Beam imports.
PACKAGES = {"dask": "; pip install 'hoarfrost[dask]'"}
# How similar an unknown flag must be to a known one to be its misspelling, out of 1. Flags of
# Flink's job server reach 0.72 (--bundle_size is like --chunk_size), slips of the hand 0.86.
TYPING_ERROR = 0.8


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

    A portable runner's job server has flags of its own, which Beam asks it for only when the job is
    submitted. So an unknown ``--flag=value`` passes there, unless it looks like a known flag.

    Args:
      parser: of the command, whose flags are suggested too.
      rest: the arguments that it left over.

    Raises:
      UsageError: for a bad value, for an unknown flag, with the nearest known one, and for a runner
        that would start its workers without Hoarfrost.
    """
    with _one_line_errors():
        # First of all, because importing a runner also declares its flags.
        runner = _runner(_asked_runner(rest))
    flags = _beam_flags()
    arguments, unknown = _split_unknown(rest, flags)
    if isinstance(runner, PortableRunner):
        known = [*parser.flags(), *flags]
        passing = [flag for flag in unknown if _is_job_servers(flag, known)]
        for flag, value in itertools.pairwise(rest):
            if flag in passing and value in unknown and not value.startswith("-"):
                parser.error(f"write a flag of the job server as {flag}={value}")
        unknown = [argument for argument in unknown if argument not in passing]
        arguments = [argument for argument in rest if argument not in unknown]
    parser.refuse_unknown(unknown, list(flags))
    _check_values(arguments)
    return tuple(arguments)


def _is_job_servers(argument: str, known: Sequence[str]) -> bool:
    flag = argument.split("=")[0]
    return flag.startswith("--") and not get_close_matches(flag, known, 1, TYPING_ERROR)


def _asked_runner(arguments: Sequence[str]) -> str:
    parser = argparse.ArgumentParser(prog="Beam", add_help=False, allow_abbrev=False)
    parser.add_argument("--runner")
    return parser.parse_known_args(arguments)[0].runner or DEFAULT_RUNNER


def _runner(name: str) -> PipelineRunner:
    """Makes a runner by its name; raises what importing it raises."""
    try:
        return create_runner(_full_name(name))
    except ValueError as error:
        known = (*StandardOptions.KNOWN_RUNNER_NAMES, "DaskRunner")
        raise unknown_choice("--runner", name, known) from error


def _full_name(name: str) -> str:
    # Beam has this runner, but not in its list of names.
    return DASK_RUNNER if name.lower() in ("dask", "daskrunner") else name


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    """Turns the errors of Beam's parser and of unknown runners into one-line `UsageError`s."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            yield
    except SystemExit as error:
        lines = said.getvalue().strip().splitlines() or ["one of Beam's flags is wrong"]
        raise UsageError(lines[-1].partition("error: ")[2] or lines[-1]) from error
    except ModuleNotFoundError as error:
        fix = PACKAGES.get((error.name or "").partition(".")[0], "")
        raise UsageError(f"--runner: {one_line(error)}{fix}") from error
    except (ValueError, ImportError, AttributeError) as error:
        raise UsageError(f"--runner: {one_line(error)}") from error


def _check_values(arguments: Sequence[str]) -> None:
    """Refuses bad values at once and in one line; Beam would do so later and in many."""
    with _one_line_errors():
        options = PipelineOptions(list(arguments))
        # A view reads its own flags only; this reads all of them.
        options.get_all_options()
        workers = options.view_as(DirectOptions).direct_num_workers
    if workers < 0:
        raise UsageError(f"--direct_num_workers must be 0 (all cores) or more, got {workers}")
    if is_portable(options) and _starts_stock_container(options):
        raise UsageError(
            f"--runner={runner_name(options)} would start its workers in Beam's own container, "
            "which has no Hoarfrost; give --environment_type=EXTERNAL "
            "--environment_config=HOST:PORT (a worker pool that runs beside each of the runner's "
            "machines) or --environment_type=PROCESS "
            '--environment_config=\'{"command": "/path/of/boot"}\' (a program there that starts '
            "a worker); see docs/operations.md, Portable runners"
        )


def refuse_local(arguments: Sequence[str], **urls: Sequence[str]) -> None:
    """Refuses paths of this machine for a runner whose workers never share its disk.

    Args:
      arguments: Beam's own flags.
      **urls: the values of each flag that names files, by the flag's name.

    Raises:
      UsageError: naming the flag and its value.
    """
    if _class_name(PipelineOptions(list(arguments))) != "DataflowRunner":
        return
    for flag, given in urls.items():
        for url in given:
            if is_on_disk(url):
                raise UsageError(
                    f"--{flag}: Dataflow's workers cannot reach {url!r}, which is a path of this "
                    "machine; give an address that they can reach too, such as gs://BUCKET/FOLDER"
                )


def make_options(arguments: Sequence[str]) -> PipelineOptions:
    """Builds the options of one of our pipelines.

    Args:
      arguments: Beam's own flags.
    """
    options = PipelineOptions(list(arguments))
    options.view_as(StandardOptions).runner = _full_name(runner_name(options))
    # Our modules are installed on the workers; pickling the main session would only break.
    options.view_as(SetupOptions).save_main_session = False
    if is_portable(options) and _loops_back(options):
        # The runner would set it later; what follows must know it now.
        options.view_as(PortableOptions).environment_type = "LOOPBACK"
    if runs_here(options) and not os.environ.get(VERBOSE):
        # Worker processes on this machine write to the user's terminal. Runners in Java know no
        # level above ERROR.
        level = "CRITICAL" if is_local(options) else "ERROR"
        options.view_as(WorkerOptions).default_sdk_harness_log_level = level
    if is_local(options):
        set_processes(options, arguments)
        # The local runner first tries Prism, which needs a download. Beam does not try it for a
        # pipeline that allows unsafe triggers, and ours have no triggers at all.
        options.view_as(TypeOptions).allow_unsafe_triggers = True
    if _class_name(options) == "DaskRunner":
        dask.divide(options)
    if _class_name(options) == "DataflowRunner":
        # Dataflow would start a process per core, each with a copy of the base; but one of our
        # processes uses all cores of its machine.
        options.view_as(DebugOptions).add_experiment("no_use_multiple_sdk_containers")
    return options


def set_processes(options: PipelineOptions, arguments: Sequence[str]) -> None:
    """Sets how many worker processes the local runner starts, as the user or this machine says.

    Args:
      options: made of the arguments.
      arguments: Beam's own flags.
    """
    direct = options.view_as(DirectOptions)
    # Beam would count the machine's cores, of which this process may use only a few.
    direct.direct_num_workers = direct.direct_num_workers or cores()
    is_asked = any(argument.split("=")[0] in _PROCESS_FLAGS for argument in arguments)
    if not is_asked and (processes := default_processes()) > 1:
        direct.direct_running_mode, direct.direct_num_workers = "multi_processing", processes


def runner_name(options: PipelineOptions) -> str:
    """Returns the runner's name as the user gave it, ``DirectRunner`` by default."""
    return options.view_as(StandardOptions).runner or DEFAULT_RUNNER


def _class_name(options: PipelineOptions) -> str:
    """Returns the name of the runner's class, however the user spelled the runner."""
    return type(_runner(runner_name(options))).__name__


def is_local(options: PipelineOptions) -> bool:
    """Whether the pipeline runs on Beam's local runner."""
    return is_local_runner(runner_name(options))


def is_portable(options: PipelineOptions) -> bool:
    """Whether the runner is reached through a job server, as Flink, Spark and Prism are."""
    return isinstance(_runner(runner_name(options)), PortableRunner)


def _loops_back(options: PipelineOptions) -> bool:
    """Whether a portable runner would run the workers in this process, unless told otherwise."""
    if options.view_as(PortableOptions).environment_type:
        return False
    name = _class_name(options)
    if name == "FlinkRunner":
        return options.view_as(FlinkRunnerOptions).flink_master in MAGIC_HOST_NAMES
    if name == "SparkRunner":
        url = options.view_as(SparkRunnerOptions).spark_master_url
        return bool(re.match(LOCAL_MASTER_PATTERN, url))
    return name == "PrismRunner"


def _starts_stock_container(options: PipelineOptions) -> bool:
    portable = options.view_as(PortableOptions)
    docker = portable.environment_type in (None, "", "DOCKER")
    image = portable.environment_config
    image = image or portable.lookup_environment_option("docker_container_image")
    return docker and not image and not _loops_back(options)


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
