"""Makes the metadata of a large store, for `benchmarks.scale`."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from classifier.inputs import ImageRef
from featurestore import layout
from featurestore.commit import Marker
from featurestore.compaction.compact import PART_BYTES
from featurestore.index.rows import (
    COMMITS,
    ORDERS,
    ROW,
    commit_numbers,
    merged_sets,
    sorted_set,
    versions,
)
from featurestore.io.sorting import digests
from featurestore.io.storage import Storage, parquet_bytes
from featurestore.layout import HashedName
from featurestore.ledger import Ledger
from featurestore.spec import BaseSpec, Numerics, PixelSpec, StoreSpec
from featurestore.store import create_store
from featurestore.writer import PartWriter

RUNS = 10
_BLOCK = 1 << 20
SPEC = StoreSpec(
    base=BaseSpec("VGG16", "none", "0" * 32, "block5_pool", "avg", "caffe", "r"),
    pixels=PixelSpec((32, 32)),
    feature_shape=(8,),
    dtype="float32",
    numerics=Numerics("tensorflow", "float32", "test"),
)
NUMERICS = {"engine": "openvino", "precision": "float16", "decoder": "simplejpeg", "versions": ""}
LANES = {"decode": 1.25, "infer": 6.5, "wait": 0.25}


@dataclass(frozen=True)
class Scale:
    """The size of a store.

    Attributes:
      parts: commits, each with one part.
      images_per_part: of every part.
      real_parts: the last so many parts hold rows; the others are files of zeros.
      listed: the last so many images are listed by the steps that plan.
      has_files: whether there are marker files and parts beside the manifests.
    """

    parts: int
    images_per_part: int
    real_parts: int
    listed: int
    has_files: bool = True

    @property
    def images(self) -> int:
        """All images."""
        return self.parts * self.images_per_part

    def refs(self, start: int, stop: int) -> Iterator[ImageRef]:
        """Yields images as a listing of folders of a thousand files would."""
        for number in range(start, stop):
            key = f"{number // 1000:06d}/{number % 1000:03d}.jpg"
            size, etag = 100_000 + number % 7919, f"{1_700_000_000 + number}.000000"
            yield ImageRef(key, f"file:///data/images/{key}", size, etag)


def make_store(folder: Path, scale: Scale) -> None:
    """Makes the store: ten finished runs with manifests, markers and parts, and the index."""
    storage = Storage(str(folder))
    create_store(storage, SPEC)
    for name in ("parts", "markers", "scratch"):
        (folder / name).mkdir(exist_ok=True)
    per_run = -(-scale.parts // RUNS)
    numbers = [np.empty(0, np.uint64)]
    for run in range(RUNS):
        run_id = f"20260101T0000{run:02d}000000Z-abc123"
        own = range(run * per_run, min((run + 1) * per_run, scale.parts))
        commits = [_commit(folder, scale, run_id, number) for number in own]
        names = {"chunk_id": [m.chunk_id for m, _ in commits], "marker": [t for _, t in commits]}
        storage.write(layout.manifest_file(run_id), parquet_bytes([pa.table(names)]))
        numbers.append(commit_numbers(marker for marker, _ in commits))
    commits_of = np.concatenate(numbers)
    few = _listed_images(scale, commits_of)
    many = _other_images(folder / "scratch", scale, commits_of)
    (folder / "scratch" / "merged").mkdir()
    merged = merged_sets([few, many], folder / "scratch" / "merged")
    target = folder / "index" / "20260101T000009000000Z-index"
    target.mkdir(parents=True)
    for name in merged:
        (folder / "scratch" / "merged" / f"{name}.npy").rename(target / f"{name}.npy")
    np.save(target / f"{COMMITS}.npy", np.sort(commits_of))
    shutil.rmtree(folder / "scratch")


def _listed_images(scale: Scale, commits: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what the index holds of the listed images."""
    first = scale.images - scale.listed
    refs = list(scale.refs(first, scale.images))
    keys = digests(ref.key for ref in refs)
    return sorted_set(
        {
            "key": keys[:, 0],
            "key_rest": keys[:, 1],
            "uri": digests(ref.uri for ref in refs)[:, 0],
            "version": versions((ref.size for ref in refs), (ref.etag for ref in refs)),
            "content": np.random.default_rng(0).integers(1, 1 << 63, len(refs), np.uint64),
            "commit": commits[np.arange(first, scale.images) // scale.images_per_part],
            "kind": np.full(len(refs), ROW, np.uint8),
        }
    )


def _other_images(folder: Path, scale: Scale, commits: np.ndarray) -> dict[str, np.ndarray]:
    """Returns columns of the index for all other images: digests are random, in files."""
    size = scale.images - scale.listed
    rng = np.random.default_rng(0)
    columns: dict[str, np.ndarray] = {}
    for names in ORDERS.values():
        for name in names:
            dtype = np.uint8 if name == "kind" else np.uint64
            path = folder / f"{name}.npy"
            column = np.lib.format.open_memmap(path, "w+", dtype, (size,)) if size else None
            columns[name] = np.empty(0, dtype) if column is None else column
            for start in range(0, size, _BLOCK) if name != "kind" else ():
                stop = min(size, start + _BLOCK)
                if name == "commit":
                    block = commits[np.arange(start, stop) // scale.images_per_part]
                elif name == names[0]:
                    low, high = ((edge << 64) // size for edge in (start, stop))
                    block = np.sort(rng.integers(low, high, stop - start, np.uint64))
                else:
                    block = rng.integers(0, 1 << 63, stop - start, np.uint64)
                columns[name][start:stop] = block
    return columns


def _commit(folder: Path, scale: Scale, run_id: str, number: int) -> tuple[Marker, str]:
    """Writes one part and its marker, without waiting for the disk as a real commit does."""
    count = scale.images_per_part
    chunk_id = hashlib.sha256(str(number).encode()).hexdigest()[:32]
    sha256, size = hashlib.sha256(chunk_id.encode()).hexdigest(), PART_BYTES
    if number >= scale.parts - scale.real_parts:
        sha256, size = _write_part(folder, scale, chunk_id, number)
    elif scale.has_files:
        place = f"{folder}/parts/{HashedName(chunk_id, sha256[:16])}"
        with open(place, "wb") as file:
            file.truncate(PART_BYTES)  # takes no room on the disk
    part, key = (
        str(HashedName(chunk_id, sha256[:16])),
        next(scale.refs(number * count, 1 << 62)).key,
    )
    marker = Marker(chunk_id, run_id, key, part, sha256, size, ledger=Ledger(count, count))
    text = _template(count)
    for name, value in (("chunk", chunk_id), ("run", run_id), ("key", key), ("part", part)):
        text = text.replace(f"<{name}>", value)
    text = text.replace("<sha256>", sha256).replace('"part_bytes": 0', f'"part_bytes": {size}')
    text = text.replace("1600000000.5", f"{1_700_000_000.5 + number}")
    if scale.has_files:
        with open(f"{folder}/markers/{chunk_id}.json", "w") as file:
            file.write(text)
    return marker, text


@cache
def _template(count: int) -> str:
    """Returns the text of a marker as an extraction writes it, with placeholders."""
    started = 1_600_000_000.5
    times = {"worker": "worker-0042", "lanes": 2, "started": started, "first": started}
    times |= {"finished": started, "lane_seconds": LANES, "images": count, "megapixels": 19.5}
    return Marker(
        chunk_id="<chunk>",
        run_id="<run>",
        first_key="<key>",
        part="<part>",
        part_sha256="<sha256>",
        ledger=Ledger(count, count),
        numerics=NUMERICS,
        seconds=8.0,
        time=times,
    ).to_json()


def _write_part(folder: Path, scale: Scale, chunk_id: str, number: int) -> tuple[str, int]:
    count = scale.images_per_part
    rows = [
        {
            "key": ref.key,
            "uri": ref.uri,
            "size": ref.size,
            "etag": ref.etag,
            "content_hash": hashlib.sha256(ref.key.encode()).hexdigest(),
            "labels": ["cat"],
            "split": "train",
            "view": 0,
            "width": 500,
            "height": 375,
        }
        for ref in scale.refs(number * count, (number + 1) * count)
    ]
    features = np.zeros((count, *SPEC.feature_shape), np.float32)
    with tempfile.TemporaryDirectory(dir=folder) as space:
        with PartWriter(Path(space) / "part", SPEC) as writer:
            writer.write(rows, features)
            part = writer.finish()
        part.path.rename(folder / "parts" / str(HashedName(chunk_id, part.sha256[:16])))
    return part.sha256, part.size
