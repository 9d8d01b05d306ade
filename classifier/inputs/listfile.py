"""Reads a CSV or Parquet file that lists images by address, with their labels and splits."""

from __future__ import annotations

import hashlib
import itertools
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from classifier.inputs.columns import (
    URI_COLUMNS,
    Asked,
    Columns,
    LabelColumn,
    find_columns,
    is_text,
)
from classifier.inputs.found import Found
from classifier.inputs.refs import ImageRef, etag_of
from featurestore.errors import UsageError, one_line
from featurestore.ignored import Ignored
from featurestore.io.retry import retrying
from featurestore.io.urls import (
    ADDRESS_ERRORS,
    address_of,
    connect,
    is_address,
    is_web,
    public_url,
    query_of,
    without_dots,
)
from featurestore.labels.cells import labels_of, text_of
from featurestore.labels.columns import SPLIT_COLUMNS, find_column, is_unnamed, require_column
from featurestore.labels.splits import split_in_cell
from featurestore.labels.table import member_name
from featurestore.labels.tables import TEXT_SUFFIXES, Row, open_table

_AT_ONCE = 16
_BLOCK = 256


def is_list(fs: Any, path: str, uri_column: str = "") -> bool:
    """Whether a file lists images instead of holding them.

    A Parquet file is a list when it has a column of addresses and none of images.

    Args:
      fs: the file system.
      path: the file's path on it.
      uri_column: the column of addresses that the user named, or "".
    """
    suffix = posixpath.splitext(path)[1].lower()
    if suffix != ".parquet":
        return suffix in TEXT_SUFFIXES
    try:
        with (
            retrying(lambda: fs.open(path, "rb")) as handle,
            pq.ParquetFile(handle, pre_buffer=False) as file,
        ):
            schema = file.schema_arrow
    except (OSError, pa.ArrowException):
        return False
    if uri_column in schema.names:
        return is_text(schema, uri_column)
    return find_columns(schema) is None and bool(find_column(schema.names, URI_COLUMNS))


@dataclass(frozen=True)
class _Listed:
    written: str
    labels: tuple[str, ...]
    split: str | None


def read_list(
    url: str,
    storage_options: Mapping[str, Any] | None = None,
    asked: Asked | None = None,
    found: Found | None = None,
) -> Iterator[ImageRef]:
    """Yields the images of a list, in its order.

    Paths may be relative to the list's folder, absolute, or any fsspec URL. Consecutive rows with
    the same path are one image with several labels.

    Args:
      url: the list's URL.
      storage_options: for its file system and those of the images.
      asked: the columns that the user named.
      found: says which columns are read, and collects the rows without an address, by number.

    Yields:
      References whose key is the path as written, without protocol and host.

    Raises:
      UsageError: for a list without a column of addresses, or that gives one image two meanings.
    """
    with open_table(url, "--input", storage_options) as (names, rows):
        columns = _columns(public_url(url), names, asked or Asked())
        found = found or Found()
        if found.say:
            found.say(columns.describe(f"--input {public_url(url)!r}"))
        places = _Places(url, storage_options)
        seen: dict[bytes, bytes] = {}
        merged = _merge(_listed(rows, columns, posixpath.basename(public_url(url)), found.ignored))
        while block := list(itertools.islice(merged, _BLOCK)):
            for ref in places.locate(block):
                if _is_new(ref, seen):
                    yield ref


def _columns(where: str, names: Sequence[str], asked: Asked) -> Columns:
    uri = require_column(asked.image, "--image_column", names) or find_column(names, URI_COLUMNS)
    if not uri:
        raise UsageError(
            f"--input: the list {where!r} needs a column {'|'.join(URI_COLUMNS)}, or one that "
            f"--image_column names; it has {', '.join(names)}"
        )
    split = find_column(names, SPLIT_COLUMNS)
    rest = [n for n in names if n == asked.label or not (n in (uri, split) or is_unnamed(n))]
    require_column(asked.label, "--label_column", rest)
    label = LabelColumn.choose(rest, asked.label)
    return Columns(uri, label.name, split, others=label.others)


def _listed(
    rows: Iterable[Row], columns: Columns, name: str, ignored: Ignored
) -> Iterator[_Listed]:
    for number, row in enumerate(rows, 1):
        written = text_of(row[columns.image])
        if written:
            labels = labels_of(row.get(columns.label))
            yield _Listed(written, labels, split_in_cell(row.get(columns.split)))
        elif any(map(labels_of, row.values())):
            ignored.add(f"{name}: row {number} has no address")


def _merge(listed: Iterable[_Listed]) -> Iterator[_Listed]:
    for _, group in itertools.groupby(listed, key=lambda item: (item.written, item.split)):
        rows = list(group)
        labels = dict.fromkeys(label for row in rows for label in row.labels)
        yield replace(rows[0], labels=tuple(labels))


def _is_new(ref: ImageRef, seen: dict[bytes, bytes]) -> bool:
    """Whether an image is new; key and address identify it, whichever way they are written.

    Raises:
      UsageError: for an image that comes again with another address, label or split.
    """
    version = ref.etag if ref.problem else ""
    facts = hashlib.sha256(repr((ref.uri, version, ref.labels, ref.split)).encode()).digest()[:12]
    is_new = True
    for name in (ref.key, f"{ref.uri}\0{version}"):
        digest = hashlib.sha256(name.encode(errors="surrogatepass")).digest()[:12]
        is_new = is_new and digest not in seen
        if seen.setdefault(digest, facts) != facts:
            raise UsageError(
                f"--input: the list names {ref.key!r} twice, with another address, label or split; "
                "for several labels let its rows follow each other, else rename one"
            )
    return is_new


class _Places:
    """Finds the address, size and version of paths as written."""

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None) -> None:
        self._options = storage_options
        self._fs, path = connect(url, storage_options, "--input")
        self._folder = posixpath.dirname(path)

    def locate(self, listed: Sequence[_Listed]) -> list[ImageRef]:
        """Returns the references; one that cannot be reached has a `problem`."""
        if isinstance(self._fs, LocalFileSystem):
            return [self._locate(item) for item in listed]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(self._locate, listed))

    def _locate(self, item: _Listed) -> ImageRef:
        facts: dict[str, Any] = {"labels": item.labels, "split": item.split}
        uri, key = public_url(item.written), _key_of(item.written)
        try:
            fs, path = self._connect(item.written)
            uri = address_of(fs, path)
            if query := query_of(path):
                # Without its query, the address leads to another picture.
                problem = f"{uri} was given with a query, which is never stored with an image"
                version = f"?{hashlib.sha256(query.encode()).hexdigest()[:12]}"
                key = key.partition("?")[0] + version
                return ImageRef(key, uri, 0, version, problem=problem, **facts)
            info = retrying(lambda: fs.info(uri if is_web(uri) else path))
            if info.get("type") == "directory":
                raise IsADirectoryError(f"{uri} is a folder, not an image")
        except (OSError, UsageError, *ADDRESS_ERRORS) as error:
            kind = "" if isinstance(error, UsageError) else f"{type(error).__name__}: "
            problem = kind + one_line(error)
            return ImageRef(key, uri, 0, "", problem=problem, **facts)
        return ImageRef(key, uri, info.get("size") or 0, etag_of(info), **facts)

    def _connect(self, written: str) -> tuple[Any, str]:
        if is_address(written):
            return connect(written, self._options, "--input")
        if isinstance(self._fs, LocalFileSystem):
            return connect(posixpath.join(self._folder, written), self._options, "--input")
        above = self._folder
        if is_web(above) and written.startswith("/"):
            above = "/".join(above.split("/")[:3])
        return self._fs, without_dots(f"{above}/{written.lstrip('/')}")


def _key_of(written: str) -> str:
    """Returns the path as written, without protocol; of a web address also without host."""
    if not is_address(written):
        return member_name(written) or written
    bare = public_url(written).partition("://")[2]
    host, _, path = bare.partition("/")
    name = member_name(path if is_web(written) else bare)
    return name or host or written
