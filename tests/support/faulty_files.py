"""A file system of folders and files, as NFS or HDFS is to fsspec, that fails as it is told to.

``faulty:///path`` is the local ``/path``, but nothing takes it for local: fsspec's generic code
walks, finds and copies, whose habit is to take an error for an absence. A file appears when it is
closed, whole.
"""

from __future__ import annotations

import errno
import io
import os
import random
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem

OPERATIONS = ("ls", "info", "open", "read", "close", "rm")
ERRORS = (errno.EIO, errno.ESTALE, errno.EACCES)
Schedule = Callable[[str, str], int]  # (operation, path) -> error number, 0 for none


def calm(operation: str, path: str) -> int:
    """The schedule of a file system that works."""
    return 0


class FaultyFileSystem(AbstractFileSystem):
    """The file system; one schedule for all of a process."""

    protocol = "faulty"
    root_marker = "/"
    schedule: ClassVar[Schedule] = staticmethod(calm)
    _local = LocalFileSystem()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return os.fspath(path).removeprefix("faulty://").rstrip("/") or "/"

    @classmethod
    def meet(cls, operation: str, path: str) -> None:
        """Raises what the schedule has for a call."""
        if number := cls.schedule(operation, path):
            raise OSError(number, os.strerror(number), path)

    def ls(self, path, detail=True, **kwargs):
        path = self._strip_protocol(path)
        self.meet("ls", path)
        return self._local.ls(path, detail=detail)

    def info(self, path, **kwargs):
        path = self._strip_protocol(path)
        self.meet("info", path)
        return self._local.info(path)

    def _open(self, path, mode="rb", **kwargs):
        self.meet("open", path)
        return _Download(path) if mode == "rb" else _Upload(path, exclusive="x" in mode)

    def rm_file(self, path):
        path = self._strip_protocol(path)
        self.meet("rm", path)
        os.remove(path)

    def rmdir(self, path):
        os.rmdir(self._strip_protocol(path))

    def makedirs(self, path, exist_ok=False):
        os.makedirs(self._strip_protocol(path), exist_ok=exist_ok)


class _Download(io.FileIO):
    def read(self, size=-1):
        FaultyFileSystem.meet("read", self.name)
        return super().read(size)

    def readall(self):
        return self.read(-1)

    def readinto(self, buffer):
        FaultyFileSystem.meet("read", self.name)
        return super().readinto(buffer)


class _Upload(io.BytesIO):
    def __init__(self, path: str, exclusive: bool) -> None:
        super().__init__()
        self._path, self._exclusive = path, exclusive
        if exclusive and os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)

    def close(self) -> None:
        if self.closed:
            return
        data = self.getvalue()
        super().close()
        FaultyFileSystem.meet("close", self._path)
        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        # Beside the folders that are listed.
        draft = f"{self._path}.{uuid.uuid4().hex}~"
        with open(draft, "xb") as file:
            file.write(data)
        if not self._exclusive:
            os.replace(draft, self._path)
            return
        try:
            os.link(draft, self._path)
        finally:
            os.remove(draft)


fsspec.register_implementation("faulty", FaultyFileSystem, clobber=True)


@dataclass
class Faults:
    """A schedule: from one call on, some calls fail.

    Attributes:
      number: how many calls go well before.
      times: how many fail then; 0 for all that come.
      errno: what they fail with.
      operations: that fail; the others work.
      where: a part of the paths that fail, "" for any.
      met: operation -> how often it failed.
      calls: all that were made.
    """

    number: int = 0
    times: int = 1
    errno: int = errno.EIO
    operations: tuple[str, ...] = OPERATIONS
    where: str = ""
    met: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def random(cls, seed: int, calls: int) -> Faults:
        """Draws faults for a command that makes about so many calls when all goes well."""
        draw = random.Random(seed)
        return cls(
            number=draw.randrange(calls),
            times=draw.choice((1, 1, 2, 4, 12, 0)),
            errno=draw.choice(ERRORS),
            operations=draw.choice((*((name,) for name in OPERATIONS[:4]), OPERATIONS)),
            where=draw.choice(("", "", "", "parts", "markers", "manifest", "plans", "labels")),
        )

    def __call__(self, operation: str, path: str) -> int:
        with self._lock:
            self.calls += 1
            if self.calls <= self.number or operation not in self.operations:
                return 0
            if self.where not in path or (self.times and self.met.total() >= self.times):
                return 0
            self.met[operation] += 1
            return self.errno

    @contextmanager
    def at_work(self) -> Iterator[Faults]:
        """Makes them happen for a while."""
        FaultyFileSystem.schedule = staticmethod(self)
        try:
            yield self
        finally:
            FaultyFileSystem.schedule = staticmethod(calm)
