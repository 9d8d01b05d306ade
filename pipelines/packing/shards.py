"""Writes images into shards: bytes as they are, never decoded."""

from __future__ import annotations

import io
import json
import posixpath
import re
import tarfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import pyarrow as pa
import pyarrow.parquet as pq

from classifier.inputs.formats.examples import encode_example
from classifier.inputs.formats.tfrecord import frame
from classifier.inputs.refs import UniqueNames
from classifier.pixels.filetypes import sniff
from featurestore.io.storage import Storage

ROW_GROUP_ROWS = 128
_PLAIN = re.compile(r"[A-Za-z0-9]+")


@dataclass(frozen=True)
class Item:
    """One image to pack.

    Attributes:
      path: relative, with its folders.
      labels: class names.
      split: or None.
      data: the file's content.
      origin: the shard that it comes from; distinguishes images with the same path in two shards.
    """

    path: str
    labels: tuple[str, ...]
    split: str | None
    data: bytes
    origin: str = ""


@dataclass
class Classes:
    """Numbers class names in the order in which they occur."""

    numbers: dict[str, int] = field(default_factory=dict)

    def number(self, label: str) -> int:
        """Returns a class's number."""
        return self.numbers.setdefault(label, len(self.numbers))


class ShardFile(Protocol):
    """A shard that is being written."""

    def __init__(self, path: Path, classes: Classes) -> None: ...

    def takes(self, item: Item) -> bool:
        """Whether the image can go into this shard."""

    def add(self, item: Item) -> None:
        """Writes one image."""

    def close(self) -> None:
        """Completes the file."""


class TarShard:
    """WebDataset's tar: each image with a ``.cls`` (its number) and a ``.json`` (its names)."""

    def __init__(self, path: Path, classes: Classes) -> None:
        self._archive = tarfile.open(path, "w")
        self._classes = classes
        self._noted: dict[str, tuple[Any, ...]] = {}
        self._names: set[str] = set()

    def takes(self, item: Item) -> bool:
        # Images with the same stem share their note.
        facts = (item.labels, item.split)
        stem = posixpath.splitext(item.path)[0]
        return item.path not in self._names and self._noted.get(stem, facts) == facts

    def add(self, item: Item) -> None:
        # The note comes first, so that no image of a cut file is without its label.
        self._note(item)
        self._member(item.path, item.data)
        self._names.add(item.path)

    def _note(self, item: Item) -> None:
        stem = posixpath.splitext(item.path)[0]
        if stem in self._noted:
            return
        self._noted[stem] = (item.labels, item.split)
        if item.labels:
            self._member(f"{stem}.cls", str(self._classes.number(item.labels[0])).encode())
        note = {"labels": list(item.labels), "split": item.split}
        self._member(f"{stem}.json", json.dumps(note, ensure_ascii=False).encode())

    def _member(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._archive.addfile(member, io.BytesIO(data))

    def close(self) -> None:
        self._archive.close()


class TfRecordShard:
    """TFRecord of ``tf.train.Example`` with the features of TensorFlow's ImageNet scripts."""

    def __init__(self, path: Path, classes: Classes) -> None:
        self._file = open(path, "wb")
        self._classes = classes
        self._names = UniqueNames()

    def takes(self, item: Item) -> bool:
        return True

    def add(self, item: Item) -> None:
        features: dict[str, list[Any]] = {
            "image/encoded": [item.data],
            "image/filename": [item.path.encode()],
            "image/format": [(sniff(item.data) or "").encode()],
        }
        if item.labels:
            features["image/class/text"] = [label.encode() for label in item.labels]
            features["image/class/label"] = [self._classes.number(name) for name in item.labels]
        if item.split:
            features["image/split"] = [item.split.encode()]
        self._file.write(frame(encode_example(features)))

    def close(self) -> None:
        self._file.close()


_IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
_TEXT = {"dtype": "string", "_type": "Value"}
_FEATURES = {
    "image": {"_type": "Image"},
    "label": _TEXT,
    "labels": {"feature": _TEXT, "_type": "List"},
    "split": _TEXT,
}
PARQUET_SCHEMA = pa.schema(
    [
        pa.field("image", _IMAGE),
        pa.field("label", pa.string()),
        pa.field("labels", pa.list_(pa.string())),
        pa.field("split", pa.string()),
    ],
    metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})},
)


class ParquetShard:
    """Parquet as Hugging Face datasets write it: ``image`` is a struct {bytes, path}."""

    def __init__(self, path: Path, classes: Classes) -> None:
        # Images are compressed already; by the checksums a reader recognises a damaged page.
        self._writer = pq.ParquetWriter(
            path, PARQUET_SCHEMA, compression="none", write_page_checksum=True, use_dictionary=False
        )
        self._rows: list[Mapping[str, Any]] = []

    def takes(self, item: Item) -> bool:
        return True

    def add(self, item: Item) -> None:
        self._rows.append(
            {
                "image": {"bytes": item.data, "path": item.path},
                "label": item.labels[0] if item.labels else None,
                "labels": list(item.labels),
                "split": item.split,
            }
        )
        if len(self._rows) == ROW_GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, PARQUET_SCHEMA))
            self._rows = []

    def close(self) -> None:
        self._flush()
        self._writer.close()


SHARD_FILES: Mapping[str, type[ShardFile]] = {
    "tar": TarShard,
    "tfrecord": TfRecordShard,
    "parquet": ParquetShard,
}


class ShardWriter:
    """Writes images into shards of one format, a series for each split; a context manager.

    A shard appears in the output when it is complete.

    Attributes:
      classes: numbers of the class names.
      files: name of each complete shard -> number of images in it.
      labels_in_folders: True, since shards hold every label and split.
    """

    def __init__(self, storage: Storage, kind: str, shard_size: int) -> None:
        self.classes = Classes()
        self.files: dict[str, int] = {}
        self.labels_in_folders = True
        self._storage, self._kind, self._size = storage, kind, shard_size
        self._open: dict[str, tuple[ShardFile, Path, int]] = {}
        self._numbers: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._workspace = self._storage.workspace(f".packing-{uuid.uuid4().hex[:8]}")
        self._folder = self._workspace.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        try:
            for series in list(self._open):
                if raised[0] is None:
                    self._finish(series)
                else:
                    self._open.pop(series)[0].close()
        finally:
            self._workspace.__exit__(*raised)

    def add(self, item: Item) -> None:
        """Writes one image."""
        split = item.split or ""
        series = split if _PLAIN.fullmatch(split) else "shard"
        if series in self._open:
            shard, _, count = self._open[series]
            if count >= self._size or not shard.takes(item):
                self._finish(series)
        if series not in self._open:
            path = self._folder / self._name(series)
            self._open[series] = (SHARD_FILES[self._kind](path, self.classes), path, 0)
        shard, path, count = self._open[series]
        shard.add(item)
        self._open[series] = (shard, path, count + 1)

    def _name(self, series: str) -> str:
        return f"{series}-{self._numbers.get(series, 0):05d}.{self._kind}"

    def _finish(self, series: str) -> None:
        shard, path, count = self._open.pop(series)
        shard.close()
        self._storage.publish(path, path.name)
        self.files[path.name] = count
        self._numbers[series] = self._numbers.get(series, 0) + 1
