"""Beam's flags: which pass, what is refused before anything is built, what the pipelines set."""

import re

import pytest
from apache_beam.options.pipeline_options import PortableOptions, StandardOptions, WorkerOptions
from support.optional import optional

from featurestore import UsageError
from pipelines.beam.options import make_options, runs_here
from pipelines.extract import parse_options
from pipelines.flags import BEAM_HELP

JOB_SERVER = ("--runner=PortableRunner", "--job_endpoint=host:8099")
POOL = ("--environment_type=EXTERNAL", "--environment_config=host:50000")
BOOT = ("--environment_type=PROCESS", '--environment_config={"command": "/opt/boot"}')


def asked(*flags: str) -> tuple[str, ...]:
    return parse_options(["--input", "s3://b/in", "--output", "s3://b/out", *flags])[
        0
    ].beam_arguments


@pytest.mark.parametrize(
    "flags",
    [
        (*JOB_SERVER, *POOL, "--number_of_execution_retries=3", "--bundle_size=8"),
        (*JOB_SERVER, *BOOT, "--object_reuse"),
        (*JOB_SERVER, "--environment_type=LOOPBACK"),
        (*JOB_SERVER, "--environment_type=DOCKER", "--environment_config=mine/hoarfrost:1"),
        ("--runner=FlinkRunner", "--flink_master=host:8081", *POOL, "--object_reuse=true"),
        ("--runner=FlinkRunner",),
        ("--runner=PrismRunner",),
        ("--runner=SparkRunner", "--spark_master_url=local[4]"),
        ("--runner=DataflowRunner", "--region=europe-west4"),
    ],
)
def test_flags_of_the_runner_and_of_its_job_server_pass(flags):
    assert asked(*flags) == flags


@pytest.mark.parametrize(
    "flags, message",
    [
        ((*JOB_SERVER, *POOL, "--paralelism=4"), "'--paralelism'; did you mean --parallelism"),
        ((*JOB_SERVER, *POOL, "--batch_sise=4"), "'--batch_sise'; did you mean --batch_size"),
        ((*JOB_SERVER, *POOL, "--retries", "3"), "a flag of the job server as --retries=3"),
        ((*JOB_SERVER, *POOL, "more"), "unknown argument 'more'"),
        (("--number_of_execution_retries=3",), "unknown flag '--number_of_execution_retries'"),
        (JOB_SERVER, "--environment_type=EXTERNAL .*--environment_type=PROCESS .*operations.md"),
        (
            ("--runner=FlinkRunner", "--flink_master=host:8081"),
            "FlinkRunner would start .*EXTERNAL",
        ),
        (("--runner=SparkRunner", "--spark_master_url=spark://h:1"), "no Hoarfrost"),
        (("--runner=DaskRuner",), "did you mean DaskRunner"),
        (("--runner",), "--runner: expected one argument"),
        (("--job_server_timeout=soon",), "--job_server_timeout.*: invalid int value: 'soon'"),
    ],
)
def test_what_a_runner_would_stumble_over_is_refused_in_one_line(flags, message):
    with pytest.raises(UsageError, match=message) as error:
        asked(*flags)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("flag", ["input", "output"])
@pytest.mark.parametrize("path", ["photos", "/photos", "file:///photos"])
def test_dataflow_is_given_no_path_of_this_machine(flag, path):
    arguments = {"input": "gs://b/in", "output": "gs://b/out", flag: path}
    flags = [f"--{name}={url}" for name, url in arguments.items()]
    with pytest.raises(UsageError, match=f"--{flag}: Dataflow's workers cannot reach '{path}'"):
        parse_options([*flags, "--runner=DataflowRunner"])


def test_dataflow_is_not_given_the_built_in_sample():
    with pytest.raises(UsageError, match="--input: .*'hoarfrost-digits'"):
        parse_options(["--output=gs://b/out", "--runner=DataflowRunner"])


def test_the_dask_runner_has_a_name_and_its_flags():
    optional("distributed")
    flags = ("--runner=DaskRunner", "--dask_client_name=h", "--dask_npartitions=2")
    assert asked(*flags) == flags
    runner = make_options(flags).view_as(StandardOptions).runner
    assert runner == "apache_beam.runners.dask.dask_runner.DaskRunner"
    for wrong, message in (
        ("--dask_npartitoins=2", "did you mean --dask_npartitions"),
        ("--dask_npartitions=many", "invalid int value: 'many'"),
    ):
        with pytest.raises(UsageError, match=message):
            asked("--runner=DaskRunner", wrong)


def test_help_names_flags_that_exist():
    optional("distributed")
    from pipelines.beam.options import _beam_flags

    named = re.findall(r"--\w+", BEAM_HELP)
    asked("--runner=DaskRunner")
    assert set(named) - {"--flag"} <= set(_beam_flags())


@pytest.mark.parametrize(
    "flags, level",
    [
        ((), "CRITICAL"),
        ((*JOB_SERVER, "--environment_type=LOOPBACK"), "ERROR"),
        (("--runner=FlinkRunner",), "ERROR"),
        ((*JOB_SERVER, *POOL), None),
    ],
)
def test_log_levels_are_ones_that_the_runner_knows(monkeypatch, flags, level):
    """Flink, which is written in Java, refuses a job with the level CRITICAL."""
    monkeypatch.delenv("HOARFROST_VERBOSE", raising=False)
    options = make_options(flags)
    assert options.view_as(WorkerOptions).default_sdk_harness_log_level == level
    assert runs_here(options) == (level is not None)


def test_a_runner_that_would_loop_back_is_known_to_run_here():
    options = make_options(["--runner=PrismRunner"])
    assert options.view_as(PortableOptions).environment_type == "LOOPBACK" and runs_here(options)
