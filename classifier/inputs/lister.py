"""Look-ups on a file system that holds inputs: an error is never an empty folder or a missing file.

Local entries are described through their links: what counts is where a link leads. Pipes and
devices are neither files nor folders.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from classifier.inputs.refs import has_image_suffix
from featurestore.io.lookup import Info, entry, files_below, lists_whole
from featurestore.io.retry import retrying

_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory"}
_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class Lister:
    """Lists and matches files, and asks again after a fault.

    Args:
      fs: an fsspec file system.
    """

    def __init__(self, fs: Any) -> None:
        self._fs = fs
        self._is_local = isinstance(fs, LocalFileSystem)
        self._known: dict[str, Info] = {}

    def kind(self, path: str) -> str:
        """Returns ``file``, ``directory``, another kind, or "" where nothing is.

        Raises:
          OSError: when the file system does not answer.
        """
        found = self._known.get(path) or entry(self._fs, path)
        return found["type"] if found else ""

    def info(self, path: str) -> Info:
        """Returns the entry of one file or folder."""
        known = self._known.get(path)
        if known:
            return known
        return _local_info(path) if self._is_local else retrying(partial(self._fs.info, path))

    def ls(self, folder: str) -> list[Info]:
        """Returns the entries of a folder, sorted by name.

        Raises:
          OSError: when the folder, or a local entry that may be a folder, cannot be read.
        """
        if self._is_local:
            names = retrying(partial(os.listdir, folder))
            found = [_local_info(os.path.join(folder, name)) for name in names]
        else:
            listed = retrying(partial(self._fs.ls, folder, detail=True))
            # Some object stores list a folder inside itself.
            found = [info for info in listed if info["name"].strip("/") != folder.strip("/")]
        return sorted(found, key=_name)

    def find(self, folder: str) -> list[Info]:
        """Returns the files below a folder that is not local, sorted by name."""
        return sorted(files_below(self._fs, folder), key=_name)

    def glob(self, pattern: str) -> list[str]:
        """Returns the paths that match a pattern, sorted; `kind` and `info` know them then."""
        root = fixed_folder(pattern)
        if "**" in pattern and lists_whole(self._fs):
            entries = retrying(partial(self._fs.find, root, detail=True, withdirs=True)).values()
        else:
            entries = self._walk(root, _may_hold(pattern, root))
        matches = re.compile(glob_translate(pattern)).match
        paths = {info["name"].rstrip("/"): info for info in entries}
        self._known = {path: info for path, info in sorted(paths.items()) if matches(path)}
        return list(self._known)

    def _walk(
        self, folder: str, may_hold: Callable[[str], bool], above: tuple[str, ...] = ()
    ) -> Iterator[Info]:
        """Yields the entries below a folder; fsspec's own ``walk`` leaves out what fails."""
        here = os.path.realpath(folder) if self._is_local else folder.strip("/")
        if here in above:
            return  # a link back up
        for info in self.ls(folder):
            yield info
            if info["type"] == "directory" and may_hold(info["name"].rstrip("/")):
                yield from self._walk(info["name"], may_hold, (*above, here))


def _name(info: Info) -> str:
    return info["name"]


def _local_info(path: str) -> Info:
    """Describes a local file or folder.

    A link that leads nowhere, and a file with the name of an image whose entry cannot be read, are
    files with a ``problem``.

    Raises:
      OSError: for any other entry that cannot be read: it may be a folder.
    """
    shown = os.fsencode(path).decode("utf-8", "backslashreplace")
    try:
        status = retrying(partial(os.stat, path))
    except OSError as error:
        if error.errno not in _NOWHERE and not has_image_suffix(path):
            raise
        problem = f"{type(error).__name__}: {error}"
        return {"name": shown, "size": 0, "type": "file", "problem": problem}
    kind = _KINDS.get(stat.S_IFMT(status.st_mode), "other")
    name = path if kind == "directory" else shown
    return {"name": name, "size": status.st_size, "type": kind, "mtime": status.st_mtime}


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
