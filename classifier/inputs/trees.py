"""Trees of folders for `layouts`: of listed names, or on a file system.

Only folders that hold images count. Names decide that, because reading the content of a large
input would cost too much: files with the extension of an image or a shard count. Where there are
none, every file counts whose extension is not that of something else, such as ``.txt``. Hidden
files never count.
"""

from __future__ import annotations

import mimetypes
import os
import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from classifier.inputs.refs import has_image_suffix, is_hidden, shard_format

Folder = tuple[str, ...]  # its path as names; () is the root
Info = Mapping[str, Any]
_TYPES = mimetypes.MimeTypes()  # its own table, the same on every machine


class Tree(Protocol):
    """What `layouts` needs to know of a tree."""

    def folders(self, above: Folder) -> Sequence[str]:
        """Returns the names of the folders directly below one, in order."""

    def holds(self, folder: Folder) -> bool:
        """Whether images lie in a folder or anywhere below it."""

    def has_images(self, folder: Folder) -> bool:
        """Whether images lie directly in a folder."""


class MemberTree:
    """A tree of listed names, such as those of an archive's members.

    Args:
      names: relative, with forward slashes.

    Example:
      >>> tree = MemberTree(["pets/cat/1.jpg", "pets/notes.txt", "empty/.hidden"])
      >>> tree.folders(()), tree.has_images(("pets",)), tree.has_images(("pets", "cat"))
      (['pets'], False, True)
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._files, self._images, self._perhaps = _Branches(), _Branches(), _Branches()
        for name in names:
            if not is_hidden(name):
                folder = tuple(name.split("/")[:-1])
                self._files.add(folder)
                if _is_named_so(name):
                    self._images.add(folder)
                elif _may_be(name):
                    self._perhaps.add(folder)

    @property
    def _counted(self) -> _Branches:
        return self._images if self._images.filled else self._perhaps

    def folders(self, above: Folder) -> Sequence[str]:
        return sorted(self._files.below.get(above, ()))

    def holds(self, folder: Folder) -> bool:
        return folder in self._counted.filled or folder in self._counted.below

    def has_images(self, folder: Folder) -> bool:
        return folder in self._counted.filled


class _Branches:
    """The folders that hold files, directly or below."""

    def __init__(self) -> None:
        self.filled: set[Folder] = set()
        self.below: dict[Folder, set[str]] = {}

    def add(self, folder: Folder) -> None:
        """Adds the folder of a file, and those above it."""
        if folder in self.filled:
            return
        self.filled.add(folder)
        while folder:
            names = self.below.setdefault(folder[:-1], set())
            if folder[-1] in names:
                return
            names.add(folder[-1])
            folder = folder[:-1]


class FolderTree:
    """A tree on a file system, listed only as far as needed.

    Args:
      root: the path of the root.
      ls: lists a folder.
    """

    def __init__(self, root: str, ls: Callable[[str], Sequence[Info]]) -> None:
        self._root, self._ls = root, ls
        self._counts: Callable[[str], bool] = _is_named_so
        if not self.holds(()):
            self._counts = _may_be

    def folders(self, above: Folder) -> Sequence[str]:
        return sorted(name for name, kind in self._entries(above) if kind == "directory")

    def holds(self, folder: Folder) -> bool:
        return self._holds(folder, frozenset())

    def has_images(self, folder: Folder) -> bool:
        return any(kind == "file" and self._counts(name) for name, kind in self._entries(folder))

    def _holds(self, folder: Folder, seen: frozenset[str]) -> bool:
        real = os.path.realpath(self._path(folder))
        if real in seen:
            return False  # a link back up
        return self.has_images(folder) or any(
            self._holds((*folder, name), seen | {real}) for name in self.folders(folder)
        )

    def _entries(self, folder: Folder) -> list[tuple[str, str]]:
        named = ((info["name"].rstrip("/"), info["type"]) for info in self._ls(self._path(folder)))
        found = ((path.rpartition("/")[2], kind) for path, kind in named)
        return [(name, kind) for name, kind in found if not is_hidden(name)]

    def _path(self, folder: Folder) -> str:
        return "/".join((self._root.rstrip("/"), *folder)) if folder else self._root


def _is_named_so(name: str) -> bool:
    return has_image_suffix(name) or shard_format(name) is not None


def _may_be(name: str) -> bool:
    kind = _TYPES.guess_type(posixpath.basename(name))[0]
    return kind is None or kind.startswith("image/")
