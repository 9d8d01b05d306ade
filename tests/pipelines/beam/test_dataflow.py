"""The job that Dataflow would get, built to the last byte before the first request."""

from __future__ import annotations

import shutil
import socket
import tarfile
from types import SimpleNamespace

import pytest
from support.commands import ROOT
from support.optional import optional

from pipelines.extract import parse_options

optional("google.cloud.dataflow")
optional("apitools")

# As many as a hundred million images have, with chunks of a usual size.
CHUNKS = 400_000
MOST_BYTES = 100_000
# Dataflow refuses a larger description of a job.
MOST_JOB_BYTES = 10 << 20
IMAGE = "europe-docker.pkg.dev/some-project/hoarfrost/hoarfrost-gpu:0.2.0-beam2.77.0"
GPU = "type:nvidia-tesla-t4;count:1;install-nvidia-driver"
FLAGS = (
    "--runner=DataflowRunner",
    "--project=some-project",
    "--region=europe-west4",
    "--temp_location=gs://bucket/tmp",
    "--dry_run=True",
    "--no_auth",
)


@pytest.fixture(scope="module")
def no_network():
    """Any connection fails the test."""

    def refuse(*_: object) -> None:
        raise AssertionError("a job is built without the network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        yield


def build(folder, *flags: str) -> SimpleNamespace:
    """Builds a job as Beam does up to its submission: its graph, its workers, its staged files."""
    import apache_beam as beam
    from apache_beam.runners.dataflow.internal import apiclient

    from pipelines.beam.job import Job
    from pipelines.beam.transforms import ExtractFeatures
    from pipelines.settings import WorkerSettings

    command = ("--input", "gs://bucket/photos", "--output", "gs://bucket/store", *FLAGS, *flags)
    options = parse_options(command)[0]
    asked = Job.of(options)
    pipeline = beam.Pipeline(options=asked.options)
    settings = WorkerSettings(options.output, run_id="run", dedupe=options.upkeep.dedupe)
    _ = pipeline | ExtractFeatures(settings, CHUNKS, dict(asked.hints))
    job = pipeline.run().job
    # Staged here instead of in the bucket.
    job.google_cloud_options.staging_location = str(folder)
    apiclient.DataflowApplicationClient(asked.options).create_job_description(job)
    components = job.proto_pipeline.components
    return SimpleNamespace(
        transforms=list(components.transforms.values()),
        environments=components.environments,
        bytes=job.proto_pipeline.ByteSize(),
        workers=job.proto.environment.worker_pools[0],
        experiments=list(job.proto.environment.experiments),
        staged={path.name: path for path in folder.iterdir()},
    )


@pytest.fixture(scope="module")
def job(tmp_path_factory, no_network):
    """A job from a custom image, on workers with a GPU."""
    hints = (f"--accelerator={GPU}", "--min_ram=16GB")
    return build(tmp_path_factory.mktemp("staged"), f"--sdk_container_image={IMAGE}", *hints)


def hinted(job) -> dict[str, dict[str, bytes]]:
    """Steps with resource hints: the step's name -> the hints of its environment."""
    return {
        step.unique_name: dict(job.environments[step.environment_id].resource_hints)
        for step in job.transforms
        if step.spec.urn == "beam:transform:pardo:v1"
        and job.environments[step.environment_id].resource_hints
    }


def test_the_extraction_alone_asks_for_hardware(job):
    hints = {
        "beam:resources:accelerator:v1": GPU.encode(),
        "beam:resources:min_ram_bytes:v1": b"16000000000",
    }
    assert hinted(job) == {"ExtractFeatures/Extract chunks": hints}


def test_dedupe_asks_for_hardware_where_it_computes(tmp_path, no_network):
    with_dedupe = build(
        tmp_path, f"--sdk_container_image={IMAGE}", f"--accelerator={GPU}", "--dedupe"
    )
    steps = {name.rpartition("/")[2] for name in hinted(with_dedupe)}
    assert steps == {"Extract firsts", "Extract copies"}


def test_nothing_is_asked_without_a_flag(job_from_source):
    assert not hinted(job_from_source)


def test_no_step_carries_data(job):
    sizes = {step.unique_name: step.ByteSize() for step in job.transforms}
    assert max(sizes.values()) < MOST_BYTES, sizes
    assert job.bytes < MOST_JOB_BYTES


def test_a_machine_runs_one_process_of_ours(job):
    assert "no_use_multiple_sdk_containers" in job.experiments
    assert "use_multiple_sdk_containers" not in job.experiments


def images(job) -> list:
    return list(job.workers.sdk_harness_container_images)


def test_workers_start_the_image_that_was_named(job):
    assert {image.container_image for image in images(job)} == {IMAGE}
    assert "pipeline.pb" in job.staged


@pytest.fixture(scope="module")
def job_from_source(tmp_path_factory, no_network):
    """A job that brings the code along, for Beam's stock image."""
    source = tmp_path_factory.mktemp("source")
    for name in ("featurestore", "classifier", "pipelines"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source / name)
    return build(
        tmp_path_factory.mktemp("staged"),
        f"--setup_file={source}/setup.py",
        f"--requirements_file={ROOT}/deploy/dataflow/requirements.txt",
        # Beam would download the packages that it names.
        "--requirements_cache=skip",
    )


def test_the_code_is_staged_whole(job_from_source):
    with tarfile.open(job_from_source.staged["workflow.tar.gz"]) as archive:
        staged = {name.partition("/")[2] for name in archive.getnames()}
    source = [
        path.relative_to(ROOT).as_posix()
        for package in ("featurestore", "classifier", "pipelines")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    # What setup.py itself reads on the worker.
    assert set(source) | {"setup.py", "pyproject.toml", "README.md"} <= staged


def test_the_extras_are_staged(job_from_source):
    text = job_from_source.staged["requirements.txt"].read_text()
    assert text == (ROOT / "deploy/dataflow/requirements.txt").read_text()
    assert "gcsfs" in text and "openvino" in text


def test_the_stock_image_fits_beam(job_from_source):
    (image,) = images(job_from_source)
    assert image.container_image.startswith("gcr.io/cloud-dataflow/v1beta3/beam_python3.")
    assert image.container_image.endswith(":2.77.0")
