"""Which columns of a Parquet file, features of a TFRecord or columns of a list mean what.

What the user named travels in a shard's etag: the same file read by other columns is another
version of it, so that it is read again, and found again by the columns it was read by.
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
from featurestore.labels.columns import LABEL_COLUMNS, SPLIT_COLUMNS, find_column, require_column

IMAGE_COLUMNS = ("image", "img", "image_bytes", "jpg", "jpeg", "png", "bytes", "data")
NAME_COLUMNS = ("path", "filename", "file_name", "image_path", "key")
URI_COLUMNS = ("uri", "url", "path", "image", "filename", "file_name", "filepath", "image_path")
# Columns that hold text, be its type that of bytes.
_TEXTS = {*NAME_COLUMNS, *URI_COLUMNS, *LABEL_COLUMNS, *SPLIT_COLUMNS} - {*IMAGE_COLUMNS}
_MARK = re.compile(r"#columns\?([^#]*)")


@dataclass(frozen=True)
class Asked:
    """The columns that the user named.

    Attributes:
      image: or "".
      label: or "".
    """

    image: str = ""
    label: str = ""

    def mark(self, etag: str) -> str:
        """Returns the etag of a shard that is read by these columns.

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
        """Reads them off a shard's etag."""
        match = _MARK.search(etag)
        return cls(**dict(parse_qsl(match[1]))) if match else cls()


def unmarked(etag: str) -> str:
    """Returns the etag of a shard without the columns it is read by.

    Example:
      >>> unmarked("17#columns?label=a#0:40"), unmarked("17")
      ('17#0:40', '17')
    """
    return _MARK.sub("", etag)


@dataclass(frozen=True)
class Columns:
    """Which columns mean what.

    Attributes:
      image: of bytes, or of structs with ``bytes``.
      label: or "".
      split: or "".
      name: of each image, or "".
      class_names: what the label's integers mean; empty when they stand for themselves.
      others: columns that might have been meant by the label's; all are, where it is "".
      is_unclear: whether there is no label because several columns hold classes.
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
        """The columns to read."""
        return [name for name in (self.image, self.label, self.split, self.name) if name]

    def told(self, where: str) -> str:
        """Says in one line which columns are taken, and how to take others.

        Example:
          >>> Columns("img", others=("fine", "coarse")).told("a.parquet")
          "a.parquet: images of column 'img', no labels: name one of fine, coarse by --label_column"
          >>> Columns("img", "label", "split", others=("breed",)).told("a.parquet")
          "a.parquet: images of column 'img', labels of 'label' (not of breed), splits of 'split'"
        """
        others = ", ".join(self.others)
        if self.label:
            label = f"labels of {self.label!r}" + (f" (not of {others})" if others else "")
        else:
            label = "no labels" + (f": name one of {others} by --label_column" if others else "")
        split = [f"splits of {self.split!r}"] if self.split else []
        # What is to be done stands last.
        rest = [*split, label] if not self.label else [label, *split]
        return ", ".join([f"{where}: images of column {self.image!r}", *rest])


@dataclass(frozen=True)
class LabelColumn:
    """Where labels are.

    Attributes:
      name: of the column, or "".
      others: columns that might have been meant; all are, where there is no name.
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
        """Chooses the column that was named, else the one called so, else the only one of classes.

        Args:
          names: of all columns that may be it.
          wanted: by the user, or "".
          declared: those that are said to hold classes.
          known: what columns of labels are called, the best first.

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
    """Finds the image column and those beside it; None for a file without images.

    Raises:
      UsageError: for a column that the user named and that is not there.
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
        return known  # "": where addresses are bytes, so is every other text
    left = [name for name in usable if name.lower() not in _TEXTS]
    return left[0] if len(left) == 1 else ""


def image_columns(schema: pa.Schema) -> list[str]:
    """Returns the columns that may hold images, by type and name."""
    fields = (field.name for field in schema if holds_bytes(field.type))
    return [name for name in fields if name.lower() not in _TEXTS]


def is_text(schema: pa.Schema, name: str) -> bool:
    """Whether a column is one of text."""
    kind = schema.field(name).type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def holds_bytes(kind: pa.DataType) -> bool:
    """Whether cells of a type may be the content of a file."""
    if pa.types.is_struct(kind):
        position = kind.get_field_index("bytes")
        return position >= 0 and holds_bytes(kind.field(position).type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _may_label(schema: pa.Schema, name: str) -> bool:
    """Whether a column may be one of labels: of values or lists of them, not of further images."""
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


def other_shape(schema: pa.Schema) -> str:
    """Says in which shape a table without an image column holds images all the same; "" for none.

    Example:
      >>> other_shape(pa.schema([("images", pa.list_(pa.binary()))]))
      "no image in it: the column 'images' holds a list of images a row; write one image a row"
      >>> other_shape(pa.schema([("id", pa.int64())]))
      ''
    """
    single = image_columns(schema)
    if single:
        return (
            f"no image in it: any of the columns {', '.join(map(repr, single))} could hold them; "
            "name one by --image_column"
        )
    lists = [field.name for field in schema if _holds_lists(field.type)]
    if lists:
        return (
            f"no image in it: the column {lists[0]!r} holds a list of images a row; write one "
            "image a row"
        )
    return ""


def _holds_lists(kind: pa.DataType) -> bool:
    if pa.types.is_map(kind):
        return holds_bytes(kind.item_type)
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if is_list or pa.types.is_fixed_size_list(kind):
        return holds_bytes(kind.value_type) or _holds_lists(kind.value_type)
    return False
