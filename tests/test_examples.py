"""The scripts of examples/ run as their first lines say."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.clusters import await_that, free_port, listens
from support.commands import ROOT
from support.optional import optional

from featurestore import open_store

EXAMPLES = ROOT / "examples"
HAS_TORCH = importlib.util.find_spec("torch") is not None


@pytest.fixture
def store(tmp_path) -> Path:
    return Path(shutil.copytree(ROOT / "tests/data/golden/embeddings", tmp_path / "store"))


def run_example(name: str, *arguments: Path | str) -> list[str]:
    """Runs a script as a user does; returns the lines it printed."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments],
        cwd=arguments[0].parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def load_example(name: str):
    """Imports a script without running it."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_script_is_in_the_readme_and_has_a_test():
    scripts = {path.name for path in EXAMPLES.glob("*.py")}
    readme, tests = (EXAMPLES / "README.md").read_text(), Path(__file__).read_text()
    assert len(scripts) == 6
    for name in scripts:
        assert f"examples/{name}" in readme
        assert f'run_example("{name}"' in tests


def test_into_keras(store):
    lines = run_example("to_keras.py", store)
    assert lines[-1].startswith("2 classes, validation accuracy")


def test_into_duckdb(store):
    lines = run_example("to_duckdb.py", store)
    counts = [line.split() for line in lines[:-3]]
    assert sum(int(line[-1]) for line in counts) == open_store(str(store)).ledger().rows
    # A later version of labels calls one of three Chinas a flower, and one flower stays one.
    assert ["test", "china", "2"] in counts and ["test", "flower", "4"] in counts
    assert all(-1 <= float(line.split()[0]) <= 1.001 for line in lines[-3:])


def test_ten_heads(store, tmp_path):
    lines = run_example("ten_heads.py", store, tmp_path / "run")
    assert [line.split()[0] for line in lines[-10:]] == [str(rank) for rank in range(1, 11)]


def test_a_base_of_your_own(tmp_path):
    photos = shutil.copytree(ROOT / "tests/data/golden/images/first", tmp_path / "photos")
    (photos / "train/china/broken.jpg").unlink()
    lines = run_example("own_base.py", Path(photos), tmp_path / "own")
    assert lines[-1] == "28 rows of (64,) from 'max_pooling2d_2'"


@pytest.mark.slow
def test_into_milvus(store, tmp_path):
    """The three nearest of a real server are those of a product of all rows."""
    optional("pymilvus")
    optional("milvus_lite")
    port, folder = free_port(), tmp_path / "vectors"
    arguments = f"server --host=127.0.0.1 --port={port} --data-dir={folder}".split()
    with subprocess.Popen(
        [sys.executable, "-m", "milvus_lite", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            await_that(lambda: listens(port), "Milvus listens")
            # The second copy replaces the rows of the first.
            for _ in range(2):
                lines = run_example("to_milvus.py", store, f"http://127.0.0.1:{port}")
        finally:
            server.terminate()
    rows = open_store(str(store)).load(["key", "labels", "features"], views=[0])
    unit = rows["features"] / np.linalg.norm(rows["features"], axis=1, keepdims=True)
    near = unit @ unit[0]
    expected = [
        f"{near[row]:.4f} {rows['key'][row]} {' '.join(rows['labels'][row])}"
        for row in np.argsort(-near)[:3]
    ]
    assert lines[-3:] == expected


@pytest.mark.skipif(not HAS_TORCH, reason="PyTorch is an extra that CI does not have")
def test_into_pytorch(store):
    lines = run_example("to_pytorch.py", store)
    assert lines[-1].startswith("2 classes, loss of the last batch")
