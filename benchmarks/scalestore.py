"""Makes the metadata of a large store, for `benchmarks.scale`."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from classifier.inputs import ImageRef
from featurestore import layout
from featurestore.commit import Marker
from featurestore.index.rows import ROW, commit_numbers, sorted_set, versions
from featurestore.index.stored import stored_sets, write_set
from featurestore.io.sorting import digests
from featurestore.io.storage import Storage, parquet_bytes
from featurestore.layout import HashedName
from featurestore.ledger import Ledger
from featurestore.spec import BaseSpec, Numerics, PixelSpec, StoreSpec
from featurestore.store import create_store
from featurestore.writer import PartWriter

RUNS = 10
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
      real_parts: the last so many parts hold rows; the others are empty files.
      listed: the last so many images are listed by the steps that plan.
    """

    parts: int
    images_per_part: int
    real_parts: int
    listed: int

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
    """Makes the store: ten finished runs with markers, manifests, parts and the index.

    A store that was begun is continued with its next run.
    """
    storage = Storage(str(folder))
    create_store(storage, SPEC)
    for name in ("parts", "markers"):
        (folder / name).mkdir(exist_ok=True)
    per_run = -(-scale.parts // RUNS)
    for run in range(RUNS):
        run_id = f"20260101T0000{run:02d}000000Z-abc123"
        if storage.exists(layout.manifest_file(run_id)):
            continue
        numbers = range(run * per_run, min((run + 1) * per_run, scale.parts))
        commits = [_commit(folder, scale, run_id, number) for number in numbers]
        markers = [marker for marker, _ in commits]
        with tempfile.TemporaryDirectory() as space:
            images = _images(scale, numbers, commit_numbers(markers))
            stored = stored_sets(storage, Path(space))
            write_set(storage, f"tmp/{run_id}", (images, markers), stored)
        names = {"chunk_id": [m.chunk_id for m in markers], "marker": [text for _, text in commits]}
        storage.write(layout.manifest_file(run_id), parquet_bytes(pa.table(names)))


def _images(scale: Scale, numbers: range, commits: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what the index holds of some commits: true digests of images that are listed.

    All other digests are random, and so is every content, because hashing takes hours.
    """
    count = scale.images_per_part
    rng = np.random.default_rng(numbers.start)
    size = len(numbers) * count
    names = ("key", "key_rest", "uri", "version", "content")
    rows = {name: rng.integers(1, 1 << 63, size, np.uint64) for name in names}
    start = max(numbers.start * count, scale.images - scale.listed)
    refs = list(scale.refs(start, numbers.stop * count))
    if refs:
        keys, own = digests(ref.key for ref in refs), slice(size - len(refs), size)
        rows["key"][own], rows["key_rest"][own] = keys[:, 0], keys[:, 1]
        rows["uri"][own] = digests(ref.uri for ref in refs)[:, 0]
        rows["version"][own] = versions((r.size for r in refs), (r.etag for r in refs))
    rows["commit"] = np.repeat(commits, count)
    return sorted_set({**rows, "kind": np.full(size, ROW, np.uint8)})


def _commit(folder: Path, scale: Scale, run_id: str, number: int) -> tuple[Marker, str]:
    """Writes one part and its marker, without waiting for the disk as a real commit does."""
    count = scale.images_per_part
    chunk_id = hashlib.sha256(str(number).encode()).hexdigest()[:32]
    sha256, size = hashlib.sha256(chunk_id.encode()).hexdigest(), 0
    if number >= scale.parts - scale.real_parts:
        sha256, size = _write_part(folder, scale, chunk_id, number)
    else:
        os.close(os.open(f"{folder}/parts/{HashedName(chunk_id, sha256[:16])}", os.O_CREAT))
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
    # An interrupted making left it; ext4 would flush each file that is overwritten.
    with suppress(FileExistsError), open(f"{folder}/markers/{chunk_id}.json", "x") as file:
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
