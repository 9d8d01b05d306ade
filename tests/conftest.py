"""Shared parts of the tests: small real stores, real images, one way to run a command."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.commands import Finished, run_command
from support.longest import LONGEST

CACHE = "HOARFROST_CACHE_FOLDER"
_found = dict(os.environ)
_made: list[str] = []


def pytest_configure() -> None:
    """Sets what the tests, and the commands they start, need in the environment."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Converted models stay out of the user's cache.
    if CACHE not in os.environ:
        _made.append(tempfile.mkdtemp(prefix="hoarfrost-tests-"))
        os.environ[CACHE] = _made[0]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Puts the longest files first; within a file the order stays."""
    places = {config.rootpath / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(LONGEST)))


def pytest_unconfigure() -> None:
    """Leaves the environment, and the disk, as they were found."""
    for name in os.environ.keys() - _found.keys():
        del os.environ[name]
    os.environ.update(_found)
    for folder in _made:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., Finished]:
    """Runs a command in the test's own folder."""

    def run(*arguments: str, **environment: str) -> Finished:
        return run_command(*arguments, cwd=tmp_path, **environment)

    return run


@pytest.fixture(scope="session")
def s3_server():
    """A server of the S3 protocol on this machine: (endpoint, environment for clients)."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ACCESS_KEY_ID": "test-key",
        "AWS_SECRET_ACCESS_KEY": "test-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield f"http://{host}:{port}", environment
    server.stop()


@pytest.fixture
def bucket(s3_server, request):
    """A new bucket: (url, storage options)."""
    import uuid

    import s3fs

    endpoint, _ = s3_server
    options = {"endpoint_url": endpoint}
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    s3fs.S3FileSystem(**options).mkdir(name)
    return f"s3://{name}", options


@pytest.fixture
def counted(monkeypatch):
    """Counts the rows that go through the base."""
    from classifier.engines import run_padded

    computed = []

    def counting(engine, images):
        computed.append(len(images))
        return run_padded(engine, images)

    monkeypatch.setattr("pipelines.extraction.chunk.run_padded", counting)
    return computed
