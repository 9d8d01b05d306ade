"""A file system's questions, asked again when the network spoils an answer."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from featurestore.io.retry import retrying

Info = Mapping[str, Any]
_WALKING = AsyncFileSystem._find


class Lister:
    """Says what lies where.

    fsspec's own ``isfile`` and ``isdir`` take any error for a no, so that a moment's fault would
    make an input one that does not exist.

    Args:
      fs: an fsspec file system.
    """

    def __init__(self, fs: Any) -> None:
        self._fs = fs
        # An object store answers for all levels at once.
        self._lists_whole = getattr(type(fs), "_find", _WALKING) is not _WALKING
        self._is_local = isinstance(fs, LocalFileSystem)
        self._known: dict[str, Info] = {}

    def kind(self, path: str) -> str:
        """Returns ``file``, ``directory``, another kind, or "" where nothing is.

        Raises:
          OSError: when that cannot be told.
        """
        try:
            return self.info(path)["type"]
        except (FileNotFoundError, NotADirectoryError):
            # A folder of an object store may have no entry of its own.
            return "directory" if retrying(partial(self._fs.isdir, path)) else ""

    def info(self, path: str) -> Info:
        """Returns the entry of one file or folder."""
        return self._known.get(path) or retrying(partial(self._fs.info, path))

    def ls(self, path: str) -> list[Info]:
        """Returns the entries of a folder."""
        return retrying(partial(self._fs.ls, path, detail=True))

    def find(self, folder: str) -> list[Info]:
        """Returns the files below a folder, sorted by name."""
        if self._lists_whole:
            found = list(retrying(partial(self._fs.find, folder, detail=True)).values())
        else:
            found = [
                info for info in self._walk(folder, lambda _: True) if info["type"] != "directory"
            ]
        return sorted(found, key=lambda info: info["name"])

    def glob(self, pattern: str) -> list[str]:
        """Returns the paths that match a pattern, sorted; their entries need no more asking for."""
        root = fixed_folder(pattern)
        if "**" in pattern and self._lists_whole:
            entries = retrying(partial(self._fs.find, root, detail=True, withdirs=True)).values()
        else:
            entries = self._walk(root, _may_hold(pattern, root))
        matches = re.compile(glob_translate(pattern)).match
        paths = {info["name"].rstrip("/"): info for info in entries}
        found = {path: info for path, info in sorted(paths.items()) if matches(path)}
        if not self._is_local:  # where an entry says what a link is, not what it leads to
            self._known = found
        return list(found)

    def _walk(
        self, folder: str, may_hold: Callable[[str], Any], above: tuple[str, ...] = ()
    ) -> Iterator[Info]:
        """Yields the entries below a folder; fsspec's own ``walk`` leaves out what fails."""
        here = os.path.realpath(folder) if self._is_local else folder.strip("/")
        if here in above:
            return  # a link back up
        for info in self.ls(folder):
            path = info["name"].rstrip("/")
            if path.lstrip("/") == folder.strip("/"):
                continue  # some object stores list a folder inside itself
            yield info
            is_folder = os.path.isdir(path) if self._is_local else info["type"] == "directory"
            if is_folder and may_hold(path):
                yield from self._walk(info["name"], may_hold, (*above, here))


def fixed_folder(pattern: str) -> str:
    """Returns the folder above the first part of a pattern that is not fixed.

    Example:
      >>> fixed_folder("bucket/photos/c*/*.jpg")
      'bucket/photos'
    """
    first = min(pattern.find(char) for char in "*?[" if char in pattern)
    return pattern[:first].rpartition("/")[0]


def _may_hold(pattern: str, root: str) -> Callable[[str], bool]:
    """Returns whether matches of a pattern may lie below a folder, so that no other is listed."""
    parts = pattern[len(root) :].strip("/").split("/")

    def may_hold(folder: str) -> bool:
        level = folder[len(root) :].strip("/").count("/") + 1
        if any("**" in part for part in parts[:level]):
            return True
        upper = "/".join([root, *parts[:level]])
        return level < len(parts) and bool(re.match(glob_translate(upper), folder))

    return may_hold
