"""A folder on any fsspec file system, with atomic files, exclusive creation and listings.

A file is either whole or absent. Local files are written beside their place and renamed. On an
object store a file appears when its upload ends, and only complete files are uploaded.
"""

from __future__ import annotations

import itertools
import os
import posixpath
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from featurestore.errors import CorruptStore
from featurestore.io import lookup
from featurestore.io.drafts import draft_name
from featurestore.io.lookup import FileInfo
from featurestore.io.retry import naming, retrying
from featurestore.io.steady import SteadyFile
from featurestore.io.urls import connect, modified_time, public_url


def _encoded(text: str) -> bytes:
    # A file name that is not UTF-8 has surrogates, which JSON restores from their escapes.
    return text.encode(errors="backslashreplace")


def parquet_bytes(groups: Iterable[pa.Table]) -> bytes:
    """Returns a small Parquet file with one row group per table, of which there is at least one."""
    sink, tables = pa.BufferOutputStream(), iter(groups)
    first = next(tables)
    with pq.ParquetWriter(sink, first.schema, compression="zstd") as writer:
        for group in itertools.chain((first,), tables):
            writer.write_table(group)
    return sink.getvalue().to_pybytes()


@dataclass(frozen=True)
class Storage:
    """A folder on a file system; all paths are relative to it and have forward slashes.

    Attributes:
      url: local path or fsspec URL of the folder.
      options: for the file system; never written anywhere.
    """

    url: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def _connection(self) -> tuple[Any, str]:
        return connect(self.url, self.options)

    def __getstate__(self) -> dict[str, Any]:
        # A connection cannot be sent to another process; the address can.
        return {"url": self.url, "options": dict(self.options)}

    @property
    def fs(self) -> Any:
        """The fsspec file system."""
        return self._connection[0]

    @property
    def _unlisted(self) -> Any:
        """The file system with its listings forgotten: other processes write here too."""
        self.fs.invalidate_cache()
        return self.fs

    @property
    def public_url(self) -> str:
        """The folder's address without credentials; an absolute path when local."""
        return self.path("") if self.is_local else public_url(self.url)

    @property
    def full_url(self) -> str:
        """The folder's address for processes in other folders; it may hold credentials."""
        return self.path("") if self.is_local else self.url

    @property
    def is_local(self) -> bool:
        """Whether files can be renamed, linked and mapped into memory."""
        return isinstance(self.fs, LocalFileSystem)

    def path(self, name: str) -> str:
        """Returns the path of `name` on the file system."""
        root = self._connection[1].rstrip("/")
        return f"{root}/{name}" if name else root

    def exists(self, name: str) -> bool:
        """Whether the file or folder exists now, whatever was listed before.

        Raises:
          OSError: when the file system gives no clear answer.
        """
        return lookup.entry(self._unlisted, self.path(name)) is not None

    def entry(self, name: str) -> FileInfo | None:
        """Returns what a listing says of a file now, or None if absent; raises like `exists`."""
        info = lookup.entry(self._unlisted, self.path(name))
        return FileInfo(name, info["size"] or 0, modified_time(info)) if info else None

    def read(self, name: str) -> bytes:
        """Returns a file's content.

        Raises:
          FileNotFoundError: when the file is absent.
        """
        return retrying(lambda: self._unlisted.cat_file(self.path(name)))

    def read_many(self, names: list[str]) -> dict[str, bytes]:
        """Returns the content of many small files, read concurrently if the protocol can."""
        if not names:
            return {}
        # `cat` would read brackets in a name as a pattern.
        paths = [self.path(name) for name in names]
        nothing = [None] * len(paths)
        found = retrying(
            lambda: self._unlisted.cat_ranges(paths, nothing, nothing, on_error="raise")
        )
        return dict(zip(names, found, strict=True))

    def open(self, name: str) -> Any:
        """Opens a file for random access."""
        path = self.path(name)
        return open(path, "rb") if self.is_local else SteadyFile(self._unlisted, path)

    @contextmanager
    def open_parquet(
        self, name: str, metadata: pq.FileMetaData | None = None
    ) -> Iterator[pq.ParquetFile]:
        """Yields a Parquet file, mapped into memory when local.

        `pq.read_table` on a Python file is no substitute: its read-ahead threads may outlive the
        call and abort the interpreter at exit.

        Args:
          name: of the file.
          metadata: its footer, if you have read it before.
        """
        with self.readable(name):
            if self.is_local:
                path = self.path(name)
                with pq.ParquetFile(path, memory_map=True, metadata=metadata) as file:
                    yield file
            else:
                with (
                    self.open(name) as handle,
                    pq.ParquetFile(handle, pre_buffer=False, metadata=metadata) as file,
                ):
                    yield file

    @contextmanager
    def readable(self, name: str) -> Iterator[None]:
        """Turns a failure to read a file into an error that says what to do.

        Raises:
          CorruptStore: when the file is missing or cannot be read.
        """
        try:
            yield
        except (FileNotFoundError, pa.ArrowInvalid) as error:
            missing = isinstance(error, FileNotFoundError)
            what = "is missing" if missing else f"cannot be read ({str(error).splitlines()[0]})"
            raise CorruptStore(
                f"{self.public_url}/{name} {what}; python -m featurestore verify says what else is "
                "wrong. To restore a chunk, delete its markers/<chunk_id>.json and the folder "
                "manifest/ (a copy of the markers), and run the extraction again"
            ) from error

    def list(self, folder: str) -> list[FileInfo]:
        """Lists the files at any depth below `folder`, by name; an absent folder is empty.

        Raises:
          OSError: when any folder below cannot be listed, so that no listing is incomplete.
        """
        root = self.path(folder)
        files = lookup.described(lookup.files_below(self._unlisted, root), root)
        return sorted(files, key=lambda file: file.name)

    def walk(self, folder: str) -> Iterator[FileInfo]:
        """Yields what `list` returns, in no order, and without all of it in memory."""
        root = self.path(folder)
        if self.is_local:
            return lookup.local_files(root)
        return lookup.described(lookup.each_below(self._unlisted, root), root)

    def names(self, folder: str) -> Iterator[str]:
        """Yields the names of the files in `folder` itself, in no order and without their sizes.

        Of a million files this takes a hundredth of what `list` takes on a local disk.
        """
        if not self.is_local:
            yield from (file.name for file in self.walk(folder))
            return
        with suppress(FileNotFoundError), os.scandir(self.path(folder)) as entries:
            yield from (found.name for found in entries if not found.is_dir())

    def write(self, name: str, data: bytes | str) -> None:
        """Writes a whole file atomically; replaces an older one."""
        data = _encoded(data) if isinstance(data, str) else data
        if not self.is_local:
            retrying(lambda: self.fs.pipe_file(self.path(name), data))
            return
        with self._beside(name, data) as draft:
            os.replace(draft, self.path(name))

    def create(self, name: str, data: bytes | str) -> bool:
        """Writes a whole file unless it exists; of several writers exactly one wins.

        Returns:
          True for the winner, False when the file existed.
        """
        data = _encoded(data) if isinstance(data, str) else data
        if not self.is_local:
            try:
                retrying(lambda: self.fs.pipe_file(self.path(name), data, mode="create"))
            except FileExistsError:
                # A retry after a lost answer finds its own file, and has won.
                return self.read(name) == data
            return True
        with self._beside(name, data) as draft:
            try:
                # Unlike O_EXCL, a link makes the file visible only when it is complete.
                os.link(draft, self.path(name))
            except FileExistsError:
                return False
        return True

    @contextmanager
    def _beside(self, name: str, data: bytes) -> Iterator[str]:
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        draft = os.path.join(os.path.dirname(path), draft_name())
        try:
            with naming(path), open(draft, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield draft
        finally:
            Path(draft).unlink(missing_ok=True)

    def publish(self, local_file: Path, name: str) -> None:
        """Moves a finished local file to its place atomically."""
        if not self.is_local:
            retrying(lambda: self.fs.put_file(str(local_file), self.path(name)))
            os.remove(local_file)
            return
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with naming(path), open(local_file, "rb") as file:
            os.fsync(file.fileno())
        os.replace(local_file, path)

    def remove(self, name: str) -> None:
        """Deletes a file or folder; an absent one is no error."""
        lookup.delete(self._unlisted, self.path(name))

    @contextmanager
    def workspace(self, name: str) -> Iterator[Path]:
        """Yields a local folder for unfinished files, and deletes it at the end.

        In a local store it is the folder `name`, so that publishing a file is a rename on one disk.
        """
        if self.is_local:
            folder = Path(self.path(name))
            folder.mkdir(parents=True, exist_ok=True)
        else:
            folder = Path(tempfile.mkdtemp(prefix="hoarfrost-"))
        try:
            with naming(str(folder)):
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def local_copy(self, name: str) -> Iterator[Path]:
        """Yields a local path to the file's content, downloaded if need be."""
        if self.is_local:
            yield Path(self.path(name))
            return
        with tempfile.TemporaryDirectory(prefix="hoarfrost-") as folder:
            target = Path(folder) / posixpath.basename(name)
            retrying(lambda: self.fs.get_file(self.path(name), str(target)))
            yield target
