"""Extractions in this process, and their rows."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np

from pipelines import extract as extract_command
from pipelines.driver import extract

# With a precision: what `auto` takes hangs on the machine and, where two are close, on the moment.
# With a precision: where two are close, `auto` may choose another one for the next store.
SMALL = ("--model", "MobileNetV2", "--weights", "none", "--pooling", "avg", "--image_size", "32")
SMALL += ("--precision", "float32")


def run(*arguments):
    """Extracts in this process, which has TensorFlow loaded; returns the outcome."""
    options, _ = extract_command.parse_options([str(argument) for argument in arguments])
    return extract(options, lambda line: None)


def rows_of(store) -> dict[str, np.ndarray]:
    loaded = store.load(["key", "features"])
    assert len(set(loaded["key"])) == len(loaded["key"]), "a key twice"
    return dict(zip(loaded["key"], loaded["features"], strict=True))


def distance(one, other) -> float:
    """Relative L2 distance of two rows; random weights make features of any magnitude."""
    one, other = one.astype(np.float64).ravel(), other.astype(np.float64).ravel()
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


def assert_same_rows(one, other):
    one, other = rows_of(one), rows_of(other)
    assert one.keys() == other.keys()
    for key, features in one.items():
        assert distance(other[key], features) < 1e-4, key


def make_tar(path: Path, images: list[Path]) -> None:
    with tarfile.open(path, "w") as archive:
        for image in images:
            for name, data in (
                (f"{image.stem}.jpg", image.read_bytes()),
                (f"{image.stem}.cls", image.parent.name.encode()),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
