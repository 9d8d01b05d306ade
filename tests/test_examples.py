"""The scripts of examples/ run as their first lines say."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.commands import ROOT

from featurestore import open_store

EXAMPLES = ROOT / "examples"
HAS_TORCH = importlib.util.find_spec("torch") is not None


@pytest.fixture
def store(tmp_path) -> Path:
    return Path(shutil.copytree(ROOT / "tests/data/golden/embeddings", tmp_path / "store"))


def run_example(name: str, *arguments: Path) -> list[str]:
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
    assert len(scripts) == 5
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


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_what_pytorch_is_fed_is_every_training_row_once(store, workers):
    example = load_example("to_pytorch")
    opened = open_store(str(store))
    classes = example.class_names(opened)
    fed = [
        row for worker in range(workers) for row in example.rows(opened, classes, worker, workers)
    ]
    expected = opened.load(["features", "labels"], splits=["train"])
    assert len(fed) == len(expected["labels"])
    assert all(features.dtype == np.float32 for features, _ in fed)
    sums = sorted(float(features.sum()) for features, _ in fed)
    np.testing.assert_allclose(sums, sorted(expected["features"].sum(axis=1)), rtol=1e-5)
    assert sum(label for _, label in fed) == sum(
        classes.index(names[0]) for names in expected["labels"]
    )


@pytest.mark.skipif(not HAS_TORCH, reason="PyTorch is an extra of the examples, no part of CI")
def test_into_pytorch(store):
    lines = run_example("to_pytorch.py", store)
    assert lines[-1].startswith("2 classes, loss of the last batch")
