"""Finds the columns of images, labels, splits and names in Parquet files, TFRecords and lists.

The columns that the user named are part of a shard's etag: the same file with other columns is
another version, which is read again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pyarrow as pa

from featurestore.errors import UsageError
from featurestore.ignored import Ignored
from featurestore.labels.columns import LABEL_COLUMNS, SPLIT_COLUMNS, find_column, require_column

IMAGE_COLUMNS = ("image", "img", "image_bytes", "jpg", "jpeg", "png", "bytes", "data")
NAME_COLUMNS = ("path", "filename", "file_name", "image_path", "key")
URI_COLUMNS = ("uri", "url", "path", "image", "filename", "file_name", "filepath", "image_path")
# Columns that hold text even where their type is bytes.
_TEXTS = {*NAME_COLUMNS, *URI_COLUMNS, *LABEL_COLUMNS, *SPLIT_COLUMNS} - {*IMAGE_COLUMNS}
# A reason of `Ignored.note`.
NO_LABEL_COLUMN = (
    "shards have no column of labels, but other columns that may hold them; name one of these by "
    "--label_column"
)
_MARK = re.compile(r"#columns\?([^#]*)")


@dataclass(frozen=True)
class Asked:
    """The columns that the user named.

    Attributes:
      image: the column of images or addresses, or "".
      label: the column of labels, or "".
    """

    image: str = ""
    label: str = ""

    def mark(self, etag: str) -> str:
        """Adds the columns to the etag of a shard.

        Example:
          >>> Asked(label="a b").mark("17"), Asked().mark("17")
          ('17#columns?label=a+b', '17')
          >>> Asked.of(Asked("img", "a#b").mark("17#0:40"))
          Asked(image='img', label='a#b')
        """
        named = {name: value for name, value in vars(self).items() if value}
        if not named:
            return etag
        version, sign, rest = etag.partition("#")  # a slice stays last
        return f"{version}#columns?{urlencode(named)}{sign}{rest}"

    @classmethod
    def of(cls, etag: str) -> Asked:
        """Returns the columns that `mark` added to an etag."""
        match = _MARK.search(etag)
        return cls(**dict(parse_qsl(match[1]))) if match else cls()


def unmarked(etag: str) -> str:
    """Returns an etag without what `Asked.mark` added.

    Example:
      >>> unmarked("17#columns?label=a#0:40"), unmarked("17")
      ('17#0:40', '17')
    """
    return _MARK.sub("", etag)


@dataclass(frozen=True)
class Columns:
    """The columns to read, by meaning; "" where there is none.

    Attributes:
      image: the column of bytes, or of structs with a field ``bytes``.
      label: the column of labels.
      split: the column of splits.
      name: the column of file names.
      class_names: the names of integer labels; empty where the integers are the names.
      others, is_unclear: as in `LabelColumn`.
    """

    image: str
    label: str = ""
    split: str = ""
    name: str = ""
    class_names: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    is_unclear: bool = False

    @property
    def read(self) -> list[str]:
        """The names of all these columns."""
        return [name for name in (self.image, self.label, self.split, self.name) if name]

    def describe(self, where: str) -> str:
        """Returns one line for the user: which columns are read, and how to choose others.

        Example:
          >>> Columns("img", others=("fine", "coarse")).describe("a.parquet")
          "a.parquet: images of column 'img', no labels: name one of fine, coarse by --label_column"
          >>> Columns("img", "label", "split", others=("breed",)).describe("a.parquet")
          "a.parquet: images of column 'img', labels of 'label' (not of breed), splits of 'split'"
        """
        others = ", ".join(self.others)
        if self.label:
            label = f"labels of {self.label!r}" + (f" (not of {others})" if others else "")
        else:
            label = "no labels" + (f": name one of {others} by --label_column" if others else "")
        split = [f"splits of {self.split!r}"] if self.split else []
        # What the user should do stands last.
        rest = [*split, label] if not self.label else [label, *split]
        return ", ".join([f"{where}: images of column {self.image!r}", *rest])

    def note_unlabelled(self, shard: str, ignored: Ignored) -> None:
        """Notes a shard that gets no labels although some of its columns may hold them.

        Args:
          shard: its key.
          ignored: collects the note.
        """
        if self.label or not self.others:
            return
        others = ", ".join(self.others)
        if self.is_unclear:
            ignored.add(f"{shard}: labels in {others}")
        ignored.note(NO_LABEL_COLUMN, f"{shard} ({others})")


@dataclass(frozen=True)
class LabelColumn:
    """The column of labels.

    Attributes:
      name: its name, or "" without one.
      others: the other columns that may hold labels.
      is_unclear: whether there is no name because several columns hold classes.
    """

    name: str
    others: tuple[str, ...] = ()
    is_unclear: bool = False

    @classmethod
    def choose(
        cls,
        names: Sequence[str],
        wanted: str,
        declared: Collection[str] = (),
        known: Sequence[str] = LABEL_COLUMNS,
    ) -> LabelColumn:
        """Chooses the wanted column, else one with a known name, else the only one of classes.

        Args:
          names: the columns that may hold labels.
          wanted: the column that the user named, or "".
          declared: the columns that the file declares as classes.
          known: the usual names of a column of labels, the best first.

        Example:
          >>> LabelColumn.choose(["fine", "coarse", "id"], "", ["fine", "coarse"])
          LabelColumn(name='', others=('fine', 'coarse'), is_unclear=True)
          >>> LabelColumn.choose(["Label", "id"], "").name
          'Label'
        """
        only = next(iter(declared)) if len(declared) == 1 else ""
        label = wanted or find_column(names, known) or only
        likely = [name for name in names if name in declared or find_column([name], known)]
        others = likely or ([] if label else list(names))
        unclear = not label and bool(likely)
        return cls(label, tuple(name for name in others if name != label), unclear)


def find_columns(schema: pa.Schema, asked: Asked | None = None) -> Columns | None:
    """Finds the columns of a Parquet file; None for a file without images.

    Raises:
      UsageError: for a column that the user named and that the file does not have.
    """
    asked = asked or Asked()
    features = _hugging_face_features(schema)
    image = _image_column(schema, asked, features)
    if not image:
        return None
    rest = [name for name in schema.names if name != image]
    name = next((n for n in NAME_COLUMNS if n in rest and is_text(schema, n)), "")
    split = find_column(rest, SPLIT_COLUMNS)
    may_label = [
        column
        for column in rest
        if column == asked.label or (column not in (name, split) and _may_label(schema, column))
    ]
    declared = [column for column in may_label if _class_names(features.get(column, {}))]
    require_column(asked.label, "--label_column", may_label)
    label = LabelColumn.choose(may_label, asked.label, declared)
    class_names = tuple(_class_names(features.get(label.name, {})))
    return Columns(image, label.name, split, name, class_names, label.others, label.is_unclear)


def _image_column(schema: pa.Schema, asked: Asked, features: Mapping[str, Any]) -> str:
    usable = [field.name for field in schema if holds_bytes(field.type)]
    if asked.image and usable:
        require_column(asked.image, "--image_column", schema.names)
        if asked.image not in usable:
            kind = schema.field(asked.image).type
            raise UsageError(
                f"--image_column: {asked.image!r} is of {kind}, which holds no image; choose from "
                f"{', '.join(usable)}"
            )
        return asked.image
    declared = [name for name in usable if features.get(name, {}).get("_type") == "Image"]
    known = next(iter(declared), "") or find_column(usable, IMAGE_COLUMNS)
    if known or find_column(usable, URI_COLUMNS):
        return known  # "" for a list: where addresses are stored as bytes, so are other texts
    left = [name for name in usable if name.lower() not in _TEXTS]
    return left[0] if len(left) == 1 else ""


def image_columns(schema: pa.Schema) -> list[str]:
    """Returns the columns whose type and name allow images."""
    fields = (field.name for field in schema if holds_bytes(field.type))
    return [name for name in fields if name.lower() not in _TEXTS]


def is_text(schema: pa.Schema, name: str) -> bool:
    """Whether a column holds text."""
    kind = schema.field(name).type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def holds_bytes(kind: pa.DataType) -> bool:
    """Whether cells of a type may hold the content of a file."""
    if pa.types.is_struct(kind):
        position = kind.get_field_index("bytes")
        return position >= 0 and holds_bytes(kind.field(position).type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _may_label(schema: pa.Schema, name: str) -> bool:
    """Whether a column may hold labels: values or lists of values, but no further images."""
    kind = schema.field(name).type
    while pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    known = find_column([name], LABEL_COLUMNS)
    return not pa.types.is_nested(kind) and (bool(known) or not holds_bytes(kind))


def _hugging_face_features(schema: pa.Schema) -> dict[str, Any]:
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    if not isinstance(features, dict):
        return {}
    return {name: kind for name, kind in features.items() if isinstance(kind, dict)}


def _class_names(kind: Mapping[str, Any]) -> Sequence[str]:
    inner = kind.get("feature")
    found = kind if kind.get("_type") == "ClassLabel" else inner if isinstance(inner, dict) else {}
    names = found.get("names") if found.get("_type") == "ClassLabel" else ()
    return [str(name) for name in names] if isinstance(names, list) else ()
