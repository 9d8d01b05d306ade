"""Streams images out of Parquet files: plain bytes, or Hugging Face datasets' {bytes, path}."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from classifier.inputs.refs import (
    MAX_MEMBER_BYTES,
    ImageRef,
    ShardDamaged,
    ShardRef,
    UniqueNames,
    too_large,
)
from featurestore.ignored import Ignored
from featurestore.labels import member_name
from featurestore.steady import SteadyFile
from featurestore.storage import connect

IMAGE_COLUMNS = ("image", "img", "image_bytes", "jpg", "jpeg", "png", "bytes", "data")
NAME_COLUMNS = ("path", "filename", "file_name", "image_path", "key")
LABEL_COLUMNS = ("labels", "label", "class", "class_name")
SPLIT_COLUMNS = ("split",)
BATCH_ROWS = 64
# Of the images that are held at once: a dictionary lets many rows share a large one.
_BATCH_BYTES = 1 << 28


@dataclass(frozen=True)
class Columns:
    """Which columns of a Parquet file mean what.

    Attributes:
      image: of bytes, or of structs with ``bytes``.
      label: or "".
      split: or "".
      name: of each image, or "".
      class_names: what the label's integers mean; empty when they stand for themselves.
    """

    image: str
    label: str = ""
    split: str = ""
    name: str = ""
    class_names: tuple[str, ...] = ()

    @property
    def read(self) -> list[str]:
        """The columns to read."""
        return [name for name in (self.image, self.label, self.split, self.name) if name]


def find_columns(schema: pa.Schema) -> Columns | None:
    """Finds the image column and those beside it; None for a file without images."""
    candidates = [field.name for field in schema if _holds_bytes(field.type)]
    if not candidates:
        return None
    features = _hugging_face_features(schema)
    declared = [name for name in candidates if features.get(name, {}).get("_type") == "Image"]
    image = next((name for name in (*declared, *IMAGE_COLUMNS) if name in candidates), "")
    if not image and len(candidates) > 1:
        return None
    names = set(schema.names)
    classes = [name for name, kind in features.items() if _class_names(kind) and name in names]
    label = _first(LABEL_COLUMNS, names) or (classes[0] if len(classes) == 1 else "")
    return Columns(
        image=image or candidates[0],
        label=label,
        split=_first(SPLIT_COLUMNS, names),
        name=_first([n for n in NAME_COLUMNS if n in names and _is_text(schema, n)], names),
        class_names=tuple(_class_names(features.get(label, {}))),
    )


def other_shape(schema: pa.Schema) -> str:
    """Says in which shape a table without an image column holds images all the same; "" for none.

    Example:
      >>> other_shape(pa.schema([("images", pa.list_(pa.binary()))]))
      "no image in it: the column 'images' holds a list of images a row; write one image a row"
      >>> other_shape(pa.schema([("id", pa.int64())]))
      ''
    """
    single = [field.name for field in schema if _holds_bytes(field.type)]
    if single:
        return (
            f"no image in it: any of the columns {', '.join(map(repr, single))} could hold them; "
            f"name one of them 'image'"
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
        return _holds_bytes(kind.item_type)
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if is_list or pa.types.is_fixed_size_list(kind):
        return _holds_bytes(kind.value_type) or _holds_lists(kind.value_type)
    return False


def _first(wanted: Sequence[str], names: set[str]) -> str:
    return next((name for name in wanted if name in names), "")


def _is_text(schema: pa.Schema, name: str) -> bool:
    kind = schema.field(name).type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        position = kind.get_field_index("bytes")
        return position >= 0 and _holds_bytes(kind.field(position).type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


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


def iter_parquet(
    shard: ShardRef, storage_options: Mapping[str, Any] | None, ignored: Ignored
) -> Iterator[tuple[ImageRef, bytes | OSError]]:
    """Yields the images of a Parquet file, a few rows at a time; page checksums are verified.

    Args:
      shard: the file.
      storage_options: for its file system.
      ignored: gets the file itself when it has no column of images.

    Yields:
      (reference, image file content), or an OSError for a row without bytes. The key is
      ``<shard>/<path>`` where the row has one that is unique, else the row's number.

    Raises:
      OSError: when the file cannot be read.
      ShardDamaged: for a file without its end, at once; for row groups that cannot be read, after
        all others were.
    """
    fs, path = connect(shard.uri, storage_options)
    with SteadyFile(fs, path) as handle:
        try:
            file = pq.ParquetFile(handle, pre_buffer=False, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            if not _is_damage(error):
                raise
            where = handle.seek(0, 2)
            raise ShardDamaged(
                f"no readable end of a Parquet file: {_line(error)}", where
            ) from error
        with file:
            columns = find_columns(file.schema_arrow)
            if columns is None:
                if reason := other_shape(file.schema_arrow):
                    raise ShardDamaged(reason)
                ignored.add(shard.key)
                return
            yield from _rows(shard, file, columns)


def _rows(
    shard: ShardRef, file: pq.ParquetFile, columns: Columns
) -> Iterator[tuple[ImageRef, bytes | OSError]]:
    names, first, damage = UniqueNames(), 0, None
    for group in range(file.num_row_groups):
        try:
            yield from _group(shard, file, columns, (group, first, names))
        except (pa.ArrowException, OSError) as error:
            if not _is_damage(error):
                raise
            damage = damage or ShardDamaged(
                f"row group {group} of {file.num_row_groups} is damaged: {_line(error)}",
                _offset(file.metadata.row_group(group)),
            )
        first += file.metadata.row_group(group).num_rows
    if damage:
        raise damage


def _group(
    shard: ShardRef, file: pq.ParquetFile, columns: Columns, place: tuple[int, int, UniqueNames]
) -> Iterator[tuple[ImageRef, bytes | OSError]]:
    group, number, names = place
    rows = _rows_at_once(file.metadata.row_group(group), columns.image)
    batches = file.iter_batches(rows, row_groups=[group], columns=columns.read, use_threads=False)
    for batch in batches:
        for row in batch.to_pylist():
            data, name = _content(row[columns.image])
            name = member_name(name or (row.get(columns.name) if columns.name else "") or "")
            labels = labels_of(row.get(columns.label), columns.class_names)
            split = row.get(columns.split) if columns.split else None
            split = str(split) if split else None
            size = len(data) if isinstance(data, bytes) else 0
            yield shard.image(names.claim(name, str(number)), size, labels, split), data
            number += 1


def _rows_at_once(group: Any, image: str) -> int:
    """Returns how many rows fit into the memory, were each as large as the whole column."""
    chunks = [group.column(index) for index in range(group.num_columns)]
    size = sum(
        chunk.total_uncompressed_size
        for chunk in chunks
        if f"{chunk.path_in_schema}.".startswith(f"{image}.")
    )
    return max(1, min(BATCH_ROWS, _BATCH_BYTES // max(1, size)))


def _content(value: Any) -> tuple[bytes | OSError, str]:
    name = ""
    if isinstance(value, Mapping):
        name, value = value.get("path") or "", value.get("bytes")
    if value is None:
        return OSError(
            "the row has no image bytes" + (f", only the path {name!r}" * bool(name))
        ), name
    return (value if len(value) <= MAX_MEMBER_BYTES else too_large(len(value))), name


def labels_of(value: Any, class_names: Sequence[str]) -> tuple[str, ...]:
    """Returns a cell as labels: none, one or several.

    Example:
      >>> labels_of([1, 0], ["cat", "dog"]), labels_of(None, ()), labels_of("x", ())
      (('dog', 'cat'), (), ('x',))
    """
    if value is None or value == "":
        return ()
    if isinstance(value, list):
        return tuple(label for item in value for label in labels_of(item, class_names))
    if isinstance(value, int) and not isinstance(value, bool) and class_names:
        # Hugging Face datasets write -1 where the label is withheld.
        if value < 0:
            return ()
        return (class_names[value] if value < len(class_names) else str(value),)
    return (value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value),)


def _is_damage(error: Exception) -> bool:
    """Whether Arrow complains about bytes; a file system's errors have a number or a subclass."""
    return isinstance(error, pa.ArrowException) or (type(error) is OSError and error.errno is None)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _offset(group: Any) -> int:
    starts: list[int] = []
    for index in range(group.num_columns):
        column = group.column(index)
        starts += [column.dictionary_page_offset or column.data_page_offset]
    return min(starts, default=0)
