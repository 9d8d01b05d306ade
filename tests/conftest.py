"""Shared parts of the tests: small real stores, real images, one way to run a command."""

from __future__ import annotations

import dataclasses
import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featurestore.commit import Marker, commit, publish
from featurestore.io.storage import Storage
from featurestore.ledger import Ledger
from featurestore.spec import BaseSpec, Numerics, PixelSpec, StoreSpec
from featurestore.store import FeatureStore, create_store
from featurestore.writer import PartWriter, write_quarantine

ROOT = Path(__file__).parent.parent
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


def pytest_unconfigure() -> None:
    """Leaves the environment, and the disk, as they were found."""
    for name in os.environ.keys() - _found.keys():
        del os.environ[name]
    os.environ.update(_found)
    for folder in _made:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Finished:
    """What a command gave."""

    code: int
    out: str
    err: str


def run_command(*arguments: str, cwd: Path, **environment: str) -> Finished:
    """Runs ``python -m ARGUMENTS`` as a user would, in a folder of its own."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        timeout=600,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., Finished]:
    """Runs a command in the test's own folder."""

    def run(*arguments: str, **environment: str) -> Finished:
        return run_command(*arguments, cwd=tmp_path, **environment)

    return run


def assert_one_line_error(finished: Finished, code: int, *words: str) -> None:
    """A user's mistake: one line on standard error, the exit code, no traceback."""
    assert finished.code == code, finished
    lines = finished.err.strip().splitlines()
    assert len(lines) == 1, finished.err
    assert lines[0].startswith("error: "), lines
    for word in words:
        assert word in lines[0], (word, lines[0])


def make_spec(
    feature_shape: tuple[int, ...] = (8,), dtype: str = "float32", **changes
) -> StoreSpec:
    """Builds a valid spec."""
    base = BaseSpec("VGG16", "none", "0" * 32, "block5_pool", "none", "caffe", "r")
    fields = {
        "base": base,
        "pixels": PixelSpec((32, 32)),
        "feature_shape": feature_shape,
        "dtype": dtype,
        "numerics": Numerics("tensorflow", "float32", "test"),
    }
    return StoreSpec(**{**fields, **changes})


def make_rows(count: int, start: int = 0, **changes) -> list[dict]:
    """Builds rows with distinct keys and contents, classes 0 to 2, splits in turn."""
    splits = ("train", "validation", "test", None)
    return [
        {
            "key": f"{index:05d}.png",
            "uri": f"file:///images/{index:05d}.png",
            "size": 10 + index,
            "etag": "1",
            "content_hash": f"{index:064x}",
            "labels": [str(index % 3)],
            "split": splits[index % 4],
            "view": 0,
            "width": 8,
            "height": 8,
            **changes,
        }
        for index in range(start, start + count)
    ]


def add_chunk(
    store: FeatureStore,
    rows: Sequence[dict],
    features: np.ndarray,
    bad: Sequence[dict] = (),
    **changes,
) -> Marker:
    """Writes and commits a chunk the way an extraction does, but for `changes` of its marker."""
    chunk_id = f"{len(store.markers()):032x}"
    storage = store.storage
    images = sum(row["view"] == 0 for row in rows)
    with storage.workspace(f"tmp/test-{chunk_id}") as folder:
        with PartWriter(folder / "part", store.spec) as writer:
            writer.write(rows, features)
            part = writer.finish()
        part_name = publish(storage, chunk_id, part, "parts") if rows else ""
        bad_name = bad_sha256 = ""
        if bad:
            written = write_quarantine(folder / "bad", bad)
            bad_name = publish(storage, chunk_id, written, "quarantine")
            bad_sha256 = written.sha256
        marker = Marker(
            chunk_id=chunk_id,
            run_id="run",
            first_key=rows[0]["key"] if rows else "",
            part=part_name,
            part_sha256=part.sha256 if rows else "",
            part_bytes=part.size if rows else 0,
            quarantine=bad_name,
            quarantine_sha256=bad_sha256,
            ledger=Ledger(images + len(bad), images, len(bad)),
            augmented=len(rows) - images,
            numerics=vars(store.spec.numerics),
        )
        return commit(storage, dataclasses.replace(marker, **changes))


def make_store(url: str | Path, spec: StoreSpec | None = None, **options) -> FeatureStore:
    """Creates an empty store."""
    return create_store(Storage(str(url), options), spec or make_spec())


def png_bytes(pixels: np.ndarray) -> bytes:
    """Encodes uint8 pixels as PNG."""
    return encode(pixels, "PNG")


def encode(pixels: np.ndarray, kind: str, **settings) -> bytes:
    """Encodes uint8 pixels as an image file."""
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, kind, **settings)
    return sink.getvalue()


def write_images(folder: Path, count: int, kind: str = "JPEG", seed: int = 0) -> list[Path]:
    """Writes distinct small photographs-like images in two classes, ``cat`` and ``dog``."""
    random = np.random.default_rng(seed)
    paths = []
    for index in range(count):
        coarse = random.integers(0, 256, (6, 8, 3), np.uint8)
        image = Image.fromarray(coarse).resize((64, 48), Image.Resampling.BICUBIC)
        path = folder / ("cat", "dog")[index % 2] / f"{index:05d}.{kind.lower()[:4]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, kind)
        paths.append(path)
    return paths


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
