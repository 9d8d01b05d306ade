"""One store's folder on any fsspec file system: atomic files, exclusive creation, listings.

A file here is either whole or absent. Local files are written beside their place and renamed; on an
object store a file appears when its upload is closed, so nothing is uploaded before it is complete.
"""

from __future__ import annotations

import os
import platform
import posixpath
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from featurestore.errors import CorruptStore
from featurestore.io.lookup import delete, entry, files_below
from featurestore.io.retry import naming, retrying
from featurestore.io.steady import SteadyFile
from featurestore.io.urls import connect, modified_time, public_url

_DRAFT = re.compile(r"\.draft-(?P<host>.+)-(?P<pid>\d+)-[0-9a-f]{8}")


def draft_name() -> str:
    """Names a file that is being written, so that others can tell whether its writer lives."""
    return f".draft-{platform.node() or 'host'}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def is_dead_draft(name: str) -> bool:
    """Whether a file name is that of a draft whose writer ran on this machine and is gone."""
    match = _DRAFT.fullmatch(name)
    if not match or match["host"] != (platform.node() or "host"):
        return False
    try:
        os.kill(int(match["pid"]), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _encoded(text: str) -> bytes:
    # A file name that is no UTF-8 has surrogates; escaped, JSON reads them back as they were.
    return text.encode(errors="backslashreplace")


@dataclass(frozen=True)
class FileInfo:
    """A listed file: path relative to the listed folder, bytes, seconds since the epoch or None."""

    name: str
    size: int
    modified: float | None


@dataclass(frozen=True)
class Storage:
    """A folder on a file system; all paths are relative to it, with forward slashes.

    Attributes:
      url: local path or fsspec URL of the folder.
      options: for the file system. Never written anywhere.
    """

    url: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def _connection(self):
        return connect(self.url, self.options)

    def __getstate__(self):
        # A connection does not travel between processes; the address does.
        return {"url": self.url, "options": dict(self.options)}

    @property
    def fs(self):
        """The fsspec file system."""
        return self._connection[0]

    @property
    def _unlisted(self):
        """The file system without what it remembers of listings: others write here too."""
        self.fs.invalidate_cache()
        return self.fs

    @property
    def public_url(self) -> str:
        """The folder's address without credentials; an absolute path when local."""
        return self.path("") if self.is_local else public_url(self.url)

    @property
    def is_local(self) -> bool:
        """Whether files can be renamed, linked and memory-mapped."""
        return isinstance(self.fs, LocalFileSystem)

    def path(self, name: str) -> str:
        """Returns the path of `name` on the file system."""
        root = self._connection[1].rstrip("/")
        return f"{root}/{name}" if name else root

    def exists(self, name: str) -> bool:
        """Whether the file or folder is there now (caches are bypassed).

        Raises:
          OSError: when that cannot be told.
        """
        return entry(self._unlisted, self.path(name)) is not None

    def size(self, name: str) -> int | None:
        """Returns a file's bytes now, or None when it is not there; raises as `exists`."""
        found = entry(self._unlisted, self.path(name))
        return None if found is None else found["size"] or 0

    def read(self, name: str) -> bytes:
        """Returns a file's bytes.

        Raises:
          FileNotFoundError: when it is not there.
        """
        return retrying(lambda: self._unlisted.cat_file(self.path(name)))

    def read_many(self, names: list[str]) -> dict[str, bytes]:
        """Returns the bytes of many small files, fetched concurrently where the protocol can."""
        if not names:
            return {}
        # Not `cat`: it would take brackets in a name for a pattern.
        paths = [self.path(name) for name in names]
        nothing = [None] * len(paths)
        found = retrying(
            lambda: self._unlisted.cat_ranges(paths, nothing, nothing, on_error="raise")
        )
        return dict(zip(names, found, strict=True))

    def open(self, name: str):
        """Opens a file for reading at random positions."""
        path = self.path(name)
        return open(path, "rb") if self.is_local else SteadyFile(self._unlisted, path)

    @contextmanager
    def open_parquet(
        self, name: str, metadata: pq.FileMetaData | None = None
    ) -> Iterator[pq.ParquetFile]:
        """Yields a Parquet file, memory-mapped when local; its footer may be known already.

        Never through `pq.read_table` on a Python file: its read-ahead threads may outlive the call
        and abort the interpreter at exit.
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
        """Turns what goes wrong in reading a part into an error that says what to do.

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
                "wrong. To make a chunk anew, delete its markers/<chunk_id>.json and the folder "
                "manifest/ (a copy of the markers), and run the extraction again"
            ) from error

    def list(self, folder: str) -> list[FileInfo]:
        """Lists the files below `folder`, recursively, by name; an absent folder is empty.

        Raises:
          OSError: when a folder at any depth cannot be listed; never a listing with a hole.
        """
        root = self.path(folder)
        prefix = root.lstrip("/") + "/"
        files = [
            FileInfo(name.removeprefix(prefix), info["size"] or 0, modified_time(info))
            for info in files_below(self._unlisted, root)
            if (name := info["name"].lstrip("/")).startswith(prefix)
        ]
        return sorted(files, key=lambda file: file.name)

    def write(self, name: str, data: bytes | str) -> None:
        """Writes a whole file atomically, replacing an older one."""
        data = _encoded(data) if isinstance(data, str) else data
        if not self.is_local:
            retrying(lambda: self.fs.pipe_file(self.path(name), data))
            return
        with self._beside(name, data) as draft:
            os.replace(draft, self.path(name))

    def create(self, name: str, data: bytes | str) -> bool:
        """Writes a whole file unless it exists; of many writers at once exactly one wins.

        Returns:
          True for the winner, False when the file was there.
        """
        data = _encoded(data) if isinstance(data, str) else data
        if not self.is_local:
            try:
                retrying(lambda: self.fs.pipe_file(self.path(name), data, mode="create"))
            except FileExistsError:
                # A retry after a lost answer meets its own file: that is a win, not a loss.
                return self.read(name) == data
            return True
        with self._beside(name, data) as draft:
            try:
                # A link, unlike O_EXCL, shows the file only when it is complete.
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
            if os.path.exists(draft):
                os.remove(draft)

    def publish(self, local_file: Path, name: str) -> None:
        """Moves a finished local file to its place, atomically."""
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
        """Deletes a file or folder; one that is gone already is no error."""
        delete(self._unlisted, self.path(name))

    @contextmanager
    def workspace(self, name: str) -> Iterator[Path]:
        """Yields a local folder for unfinished files, removed at the end.

        On a local store it is the folder `name`, so that publishing is a rename on one disk.
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
        """Yields a local path with the file's content, downloaded where need be."""
        if self.is_local:
            yield Path(self.path(name))
            return
        with tempfile.TemporaryDirectory(prefix="hoarfrost-") as folder:
            target = Path(folder) / posixpath.basename(name)
            retrying(lambda: self.fs.get_file(self.path(name), str(target)))
            yield target
