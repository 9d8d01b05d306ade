import re
import sys

import apache_beam as beam
import pytest
from apache_beam.pipeline import PipelineVisitor
from support.optional import optional

from classifier.heads.ridge.settings import RidgeSettings
from featurestore.errors import RunFailed, UsageError
from featurestore.io.cores import cores
from pipelines import extract
from pipelines.beam.dask import TASKS_PER_THREAD
from pipelines.beam.options import check_beam_arguments, make_options
from pipelines.beam.ridge import FitRidge
from pipelines.beam.transforms import ExtractFeatures
from pipelines.flags import BEAM_HELP
from pipelines.settings import WorkerSettings

optional("distributed")


def dask_flags() -> set[str]:
    from apache_beam.options.pipeline_options import _BeamArgumentParser
    from apache_beam.runners.dask.dask_runner import DaskOptions

    parser = _BeamArgumentParser(add_help=False)
    DaskOptions._add_argparse_args(parser)
    return {name for action in parser._actions for name in action.option_strings}


def test_help_lists_every_flag_of_dask():
    assert set(re.findall(r"--dask_\w+", BEAM_HELP)) == dask_flags()


def test_the_flags_of_dask_are_accepted():
    rest = [f"{flag}=1" for flag in sorted(dask_flags() - {"--dask_partition_size"})]
    rest.append("--runner=DaskRunner")
    assert check_beam_arguments(extract.build_parser(), rest) == tuple(rest)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--dask_client_adress=tcp://a:1", "--dask_client_address"),
        ("--dask_npartitions=many", "invalid int value: 'many'"),
    ],
)
def test_mistakes_are_refused_with_the_nearest_flag(argument, message):
    with pytest.raises(UsageError, match=message):
        check_beam_arguments(extract.build_parser(), ["--runner=DaskRunner", argument])


def test_without_dask_the_error_names_the_extra(monkeypatch):
    for name in ("dask_runner", "transform_evaluator"):
        monkeypatch.delitem(sys.modules, f"apache_beam.runners.dask.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "dask", None)
    with pytest.raises(UsageError, match=r"pip install 'hoarfrost\[dask\]'"):
        check_beam_arguments(extract.build_parser(), ["--runner=DaskRunner"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dask_client_address=tcp://127.0.0.1:1"], "answers at 'tcp://127.0.0.1:1': Timed out"),
        (["--dask_client_address=http://a:1"], "unknown address scheme 'http'"),
        (["--dask_client_address=scheduler"], "missing port number"),
        (["--dask_scheduler_file=none.json"], "answers at 'none.json': there is no such file"),
    ],
)
def test_a_scheduler_that_does_not_answer_is_one_line(flags, message):
    with pytest.raises(RunFailed, match=message):
        make_options(["--runner=DaskRunner", "--dask_connection_timeout=1", *flags])


def test_every_thread_gets_several_tasks():
    options = make_options(["--runner=DaskRunner"]).get_all_options()
    assert options["npartitions"] == TASKS_PER_THREAD * cores()


@pytest.mark.parametrize(
    ("flag", "field"),
    [("--dask_npartitions", "npartitions"), ("--dask_partition_size", "partition_size")],
)
def test_the_users_number_of_tasks_stays(flag, field):
    options = make_options(["--runner=DaskRunner", f"{flag}=3"]).get_all_options()
    assert options[field] == 3
    assert [options["npartitions"], options["partition_size"]].count(None) == 1


def test_a_cluster_is_asked_for_its_threads(capsys):
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=0, threads_per_worker=10, processes=False, dashboard_address=":0"
    ) as cluster:
        address = f"--dask_client_address={cluster.scheduler_address}"
        assert make_options(["--runner=DaskRunner", address]).get_all_options()["npartitions"] == 64
        assert "has no workers yet; the job waits for them" in capsys.readouterr().err
        cluster.scale(2)
        cluster.wait_for_workers(2)
        options = make_options(["--runner=DaskRunner", address]).get_all_options()
        assert options["npartitions"] == 160


class Steps(PipelineVisitor):
    """Gathers the steps that have side inputs, or more than one output."""

    def __init__(self):
        self.unsafe = []

    def visit_transform(self, step):
        if step.side_inputs or len(step.outputs) > 1:
            self.unsafe.append(step.full_label)


@pytest.mark.parametrize(
    "steps",
    [
        ExtractFeatures(WorkerSettings("store"), 300),
        ExtractFeatures(WorkerSettings("store", dedupe=True), 300),
        FitRidge(None, RidgeSettings(8, 8, 3, (1.0,)), 300, "fit"),
    ],
    ids=["extract", "dedupe", "ridge"],
)
def test_no_step_has_what_dask_cannot_do(steps):
    """It merges outputs, and computes side inputs again for each element."""
    pipeline, visitor = beam.Pipeline(), Steps()
    pipeline | steps
    pipeline.visit(visitor)
    assert visitor.unsafe == []
