"""Looks up, downloads and deletes files and folders; an error never counts as "not there".

fsspec's own ``exists``, ``isfile``, ``isdir``, ``find``, ``walk`` and ``rm`` treat most errors as
absence, and ``find(..., on_error="raise")`` raises for the top folder only. Code that trusts them
deletes files that are still needed. Here a path is absent only if the file system answers "not
found".
"""

from __future__ import annotations

import inspect
import os
import string
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.local import LocalFileSystem

from featurestore.io.retry import retrying
from featurestore.io.urls import modified_time

Info = Mapping[str, Any]
# So many entries an object store returns in one answer.
MANY = 1000
# What a name may begin with.
_FIRST = string.digits + string.ascii_letters + string.punctuation.replace("/", "")
_ABSENT = (FileNotFoundError, NotADirectoryError)


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A listed file: its path in the listed folder, bytes, seconds since the epoch or None."""

    name: str
    size: int
    modified: float | None


def entry(fs: Any, path: str) -> Info | None:
    """Returns the entry of a file or folder, or None when the path is absent.

    Raises:
      OSError: when the file system gives no clear answer, after retries.
    """
    try:
        return retrying(partial(fs.info, path))
    except _ABSENT:
        return None


def is_folder(fs: Any, path: str) -> bool:
    """Whether a path is a folder; raises like `entry`."""
    found = entry(fs, path)
    return found is not None and found["type"] == "directory"


def files_below(fs: Any, folder: str) -> list[Info]:
    """Returns the entries of all files below a folder; none for an absent folder.

    Raises:
      OSError: when a folder at any depth cannot be listed, after retries.
    """
    if lists_whole(fs):
        return list(retrying(partial(fs.find, folder, detail=True)).values())
    return [info for info in _entries_below(fs, folder) if info["type"] != "directory"]


def each_below(fs: Any, folder: str) -> Iterator[Info]:
    """Yields what `files_below` returns, of a large object store a part at a time.

    An entry takes a kilobyte and more. So if many names begin with 0, like a sixteenth of all
    hexadecimal ones, then names are asked for by their first characters, all of ASCII.
    """
    many: Collection[Info] = ()
    if lists_whole(fs) and "prefix" in inspect.signature(type(fs)._find).parameters:
        many = _named(fs, folder, _FIRST[0])
    if len(many) < MANY:
        yield from files_below(fs, folder)
        return
    yield from many
    for character in _FIRST[1:]:
        yield from _named(fs, folder, character)


def _named(fs: Any, folder: str, prefix: str) -> Collection[Info]:
    return retrying(partial(fs.find, folder, detail=True, prefix=prefix)).values()


def local_files(folder: str, prefix: str = "") -> Iterator[FileInfo]:
    """Yields all files below a local folder, in no order; none for an absent folder.

    An entry of fsspec takes a kilobyte and more; here one is in memory at a time. Links to folders
    are not followed, as by `files_below`.

    Raises:
      OSError: when a folder at any depth cannot be listed.
    """
    with suppress(*_ABSENT), os.scandir(folder) as entries:
        for found in entries:
            if found.is_dir(follow_symlinks=False):
                yield from local_files(found.path, f"{prefix}{found.name}/")
                continue
            with suppress(FileNotFoundError):  # removed since the folder was read
                status = found.stat()
                yield FileInfo(f"{prefix}{found.name}", status.st_size, status.st_mtime)


def described(infos: Iterable[Info], folder: str) -> Iterator[FileInfo]:
    """Yields what is known of files, given entries of files below a folder."""
    prefix = folder.lstrip("/") + "/"
    for info in infos:
        name = info["name"].lstrip("/")
        if name.startswith(prefix):
            yield FileInfo(name.removeprefix(prefix), info["size"] or 0, modified_time(info))


def download(fs: Any, found: Info, target: Path) -> None:
    """Copies a file, or a folder with everything below it, to a local path.

    Args:
      fs: the file system.
      found: the entry of the file or folder.
      target: a local path that does not exist yet.

    Raises:
      OSError: when a file or folder cannot be read, after retries.
    """
    name = found["name"]
    if found["type"] != "directory":
        retrying(partial(fs.get_file, name, str(target)))
        return
    target.mkdir()
    prefix = name.strip("/") + "/"
    for info in files_below(fs, name):
        place = target / info["name"].lstrip("/").removeprefix(prefix)
        place.parent.mkdir(parents=True, exist_ok=True)
        retrying(partial(fs.get_file, info["name"], str(place)))


def delete(fs: Any, path: str) -> None:
    """Deletes the file or folder of exactly this name; an absent one is no error.

    fsspec's ``rm`` would read brackets in a name as a pattern and delete every match.

    Raises:
      OSError: when it cannot be deleted, after retries.
    """
    found = entry(fs, path)
    if found is None:
        return
    if isinstance(fs, LocalFileSystem):
        # Here `rm` takes names literally, and deletes a link rather than its target.
        with suppress(FileNotFoundError):
            retrying(partial(fs.rm, path, recursive=True))
        return
    if found["type"] != "directory":
        _delete_file(fs, path)
        return
    folders = [path]
    for info in files_below(fs, path) if lists_whole(fs) else _entries_below(fs, path):
        if info["type"] == "directory":
            folders.append(info["name"])
        else:
            _delete_file(fs, info["name"])
    # On an object store a folder disappears with its last file.
    for folder in reversed(folders) if not lists_whole(fs) else ():
        with suppress(OSError):
            fs.rmdir(folder)


def lists_whole(fs: Any) -> bool:
    """Whether a file system lists all levels itself in few requests, like an object store."""
    find = getattr(type(fs), "_find", None)
    # fsspec's generic methods walk from folder to folder and skip what fails.
    return (
        isinstance(fs, AsyncFileSystem)
        and find is not None
        and not find.__module__.startswith("fsspec.")
    )


def _delete_file(fs: Any, path: str) -> None:
    with suppress(FileNotFoundError):
        retrying(partial(fs.rm_file, path))


def _entries_below(fs: Any, folder: str) -> Iterator[Info]:
    """Yields the entries below a folder, each folder before its content."""
    try:
        listed = retrying(partial(fs.ls, folder, detail=True))
    except _ABSENT:
        return  # possibly removed since the parent was listed
    for info in listed:
        # Some file systems list a folder inside itself, and a file as its own folder.
        if info["name"].strip("/") == folder.strip("/"):
            continue
        yield info
        if info["type"] == "directory":
            yield from _entries_below(fs, info["name"].rstrip("/"))
