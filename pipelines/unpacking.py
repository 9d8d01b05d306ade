"""Writes images into class folders: bytes as they are, never decoded."""

from __future__ import annotations

import csv
import posixpath
import re
import uuid
from types import TracebackType
from typing import Self

from classifier.inputs.layouts import detect_layout, label_and_split
from classifier.inputs.refs import UniqueNames
from featurestore.retry import retrying
from featurestore.storage import Storage
from pipelines.packing import Classes, Item

LABELS_FILE = "labels.csv"
_UNSAFE = re.compile(r"[/\\\0]")


class FolderWriter:
    """Writes images as files, in folders that tell their class and split; a context manager.

    Attributes:
      classes: none have numbers here.
      files: name -> images in it: one line for each first-level folder.
      told: whether folders tell every label and split; if not, ``labels.csv`` does.
    """

    def __init__(self, storage: Storage) -> None:
        self.classes = Classes()
        self.files: dict[str, int] = {}
        self.told = True
        self._storage = storage
        self._names = UniqueNames()
        self._counts = {"class": 0, "split": 0, "flat": 0}

    def __enter__(self) -> Self:
        self._workspace = self._storage.workspace(f".packing-{uuid.uuid4().hex[:8]}")
        self._table = self._workspace.__enter__() / LABELS_FILE
        self._handle = open(self._table, "w", newline="", encoding="utf-8")
        self._csv = csv.writer(self._handle)
        self._csv.writerow(("key", "label", "split"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._handle.close()
        try:
            if kind is None:
                layout = detect_layout([name for name in self.files if name])
                self.told = self._counts[layout] == sum(self.files.values())
                if not self.told:
                    self._storage.publish(self._table, LABELS_FILE)
        finally:
            self._workspace.__exit__(kind, error, trace)

    def add(self, item: Item) -> None:
        """Writes one image."""
        wanted = place(item)
        folder, name = posixpath.split(wanted)
        name = self._names.claim(wanted, posixpath.join(folder, f"{item.origin}-{name}"))
        path = self._storage.path(name)
        self._storage.fs.makedirs(posixpath.dirname(path), exist_ok=True)
        retrying(lambda: self._storage.fs.pipe_file(path, item.data))
        first = name.partition("/")[0] if "/" in name else ""
        self.files[first] = self.files.get(first, 0) + 1
        for layout in self._counts:
            self._counts[layout] += label_and_split(name, layout) == (item.labels, item.split)
        for label in item.labels or ("",):
            self._csv.writerow((name, label, item.split or ""))


def place(item: Item) -> str:
    """Returns where an image goes in a folder: where it was, if that tells its class and split.

    Example:
      >>> place(Item("train/cat/1.jpg", ("cat",), "train", b""))
      'train/cat/1.jpg'
      >>> place(Item("0001.jpg", ("cat",), "train", b""))
      'train/cat/0001.jpg'
    """
    layout = "split" if item.split else "class"
    if label_and_split(item.path, layout) == (item.labels, item.split):
        return item.path
    folders = [item.split] if item.split else []
    folders += item.labels[:1]
    safe = [_UNSAFE.sub("_", folder).strip(". ") or "_" for folder in folders]
    return "/".join([*safe, item.path])
