"""Writes images into class folders: bytes as they are, never decoded."""

from __future__ import annotations

import csv
import itertools
import posixpath
import re
import uuid
from collections.abc import Iterator
from typing import Any, Self

from classifier.inputs.layouts import Facts, Layout, find_layout
from classifier.inputs.refs import UniqueNames
from classifier.inputs.trees import Folder, MemberTree
from featurestore.io.retry import retrying
from featurestore.io.storage import Storage
from pipelines.packing.shards import Classes, Item

LABELS_FILE = "labels.csv"
_UNSAFE = re.compile(r"[/\\\0]")


class FolderWriter:
    """Writes images as files, in folders for their class and split; a context manager.

    Attributes:
      classes: stays empty, because folders do not number classes.
      files: first-level folder -> number of images in it.
      labels_in_folders: whether the folders show every label and split; ``labels.csv`` does if not.
    """

    def __init__(self, storage: Storage) -> None:
        self.classes = Classes()
        self.files: dict[str, int] = {}
        self.labels_in_folders = True
        self._storage = storage
        self._names = UniqueNames()
        self._above: Folder = ()

    def __enter__(self) -> Self:
        self._workspace = self._storage.workspace(f".packing-{uuid.uuid4().hex[:8]}")
        self._table = self._workspace.__enter__() / LABELS_FILE
        self._handle = open(self._table, "w", newline="", encoding="utf-8")
        self._csv = csv.writer(self._handle)
        self._csv.writerow(("key", "label", "split"))
        return self

    def __exit__(self, *raised: Any) -> None:
        self._handle.close()
        try:
            if raised[0] is None:
                self.labels_in_folders = self._are_labels_in_folders()
                if not self.labels_in_folders:
                    self._storage.publish(self._table, LABELS_FILE)
        finally:
            self._workspace.__exit__(*raised)

    def add(self, item: Item) -> None:
        """Writes one image."""
        wanted, self._above = place(item, self._above)
        folder, name = posixpath.split(wanted)
        name = self._names.claim(wanted, posixpath.join(folder, f"{item.origin}-{name}"))
        path = self._storage.path(name)
        self._storage.fs.makedirs(posixpath.dirname(path), exist_ok=True)
        retrying(lambda: self._storage.fs.pipe_file(path, item.data))
        first = name.partition("/")[0] if "/" in name else ""
        self.files[first] = self.files.get(first, 0) + 1
        for label in item.labels or ("",):
            self._csv.writerow((name, label, item.split or ""))

    def _are_labels_in_folders(self) -> bool:
        """Reads the table again, and compares it with what the folders alone say."""
        layout = find_layout(MemberTree(name for name, _ in self._written()))
        return all(layout.facts(name) == facts for name, facts in self._written())

    def _written(self) -> Iterator[tuple[str, Facts]]:
        with open(self._table, newline="", encoding="utf-8") as table:
            rows = csv.DictReader(table)
            for name, group in itertools.groupby(rows, key=lambda row: row["key"]):
                found = list(group)
                labels = tuple(row["label"] for row in found if row["label"])
                yield name, (labels, found[0]["split"] or None)


def place(item: Item, above: Folder = ()) -> tuple[str, Folder]:
    """Returns the path of an image: its own, if that shows its class and split.

    Args:
      item: the image.
      above: folders that wrap the images that were placed before, if any do.

    Returns:
      (path, the folders that wrap it).

    Example:
      >>> place(Item("train/cat/1.jpg", ("cat",), "train", b""))
      ('train/cat/1.jpg', ())
      >>> place(Item("0001.jpg", ("cat",), "train", b""))
      ('train/cat/0001.jpg', ())
      >>> place(Item("pets/cat/1.jpg", ("cat",), None, b""))
      ('pets/cat/1.jpg', ('pets',))
    """
    kind = "split" if item.split else "class"
    names = tuple(item.path.split("/")[:-1])
    for depth in range(len(names) + 1):
        wraps = names[:depth]
        facts = Layout(kind, wraps, is_found=False).facts(item.path)
        if facts == (item.labels, item.split) and (not wraps or above in ((), wraps)):
            return item.path, wraps or above
    folders = [item.split] if item.split else []
    folders += item.labels[:1]
    safe = [_UNSAFE.sub("_", folder).strip(". ") or "_" for folder in folders]
    return "/".join([*safe, item.path]), above
