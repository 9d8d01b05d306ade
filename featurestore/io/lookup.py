"""What lies where on a file system: an error is never a no.

fsspec's own ``exists``, ``isfile``, ``isdir``, ``find``, ``walk`` and ``rm`` take most errors for
absence, and ``find(..., on_error="raise")`` raises for the topmost folder only. Whoever believes
them deletes what is still needed. Here only a file system that answers "not found" has nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.local import LocalFileSystem

from featurestore.io.retry import retrying

Info = Mapping[str, Any]
_ABSENT = (FileNotFoundError, NotADirectoryError)


def entry(fs: Any, path: str) -> Info | None:
    """Returns the entry of a file or folder, or None where nothing is.

    Raises:
      OSError: when that cannot be told, after retries.
    """
    try:
        return retrying(partial(fs.info, path))
    except _ABSENT:
        return None


def is_folder(fs: Any, path: str) -> bool:
    """Whether a folder is there; raises as `entry` does."""
    found = entry(fs, path)
    return found is not None and found["type"] == "directory"


def files_below(fs: Any, folder: str) -> list[Info]:
    """Returns the entries of all files below a folder; an absent folder has none.

    Raises:
      OSError: when a folder cannot be listed, at whatever depth, after retries.
    """
    if lists_whole(fs):
        return list(retrying(partial(fs.find, folder, detail=True)).values())
    return [info for info in _entries_below(fs, folder) if info["type"] != "directory"]


def download(fs: Any, found: Info, target: Path) -> None:
    """Copies a file, or a folder with all that is below it, to a local path.

    Args:
      fs: the file system.
      found: what `entry` said of it.
      target: local, does not exist.

    Raises:
      OSError: when any of it cannot be read, after retries.
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
    """Deletes a file or a folder, by its very name; one that is gone already is no error.

    fsspec's ``rm`` would take brackets in a name for a pattern, and delete what matches.

    Raises:
      OSError: when it cannot be deleted, after retries.
    """
    found = entry(fs, path)
    if found is None:
        return
    if isinstance(fs, LocalFileSystem):
        # It takes names literally, and a link for a link.
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
    # On an object store a folder is gone with its last file.
    for folder in reversed(folders) if not lists_whole(fs) else ():
        with suppress(OSError):
            fs.rmdir(folder)


def lists_whole(fs: Any) -> bool:
    """Whether a file system lists all levels by itself, in few requests, as object stores do."""
    find = getattr(type(fs), "_find", None)
    # fsspec's own, wrappers included, walk from folder to folder and leave out what fails.
    return (
        isinstance(fs, AsyncFileSystem)
        and find is not None
        and not find.__module__.startswith("fsspec.")
    )


def _delete_file(fs: Any, path: str) -> None:
    with suppress(FileNotFoundError):
        retrying(partial(fs.rm_file, path))


def _entries_below(fs: Any, folder: str) -> Iterator[Info]:
    """Yields the entries below a folder, each folder before what is in it."""
    try:
        listed = retrying(partial(fs.ls, folder, detail=True))
    except _ABSENT:
        return  # or removed since the folder above was listed
    for info in listed:
        # Some file systems list a folder inside itself, and a file as its own folder.
        if info["name"].strip("/") == folder.strip("/"):
            continue
        yield info
        if info["type"] == "directory":
            yield from _entries_below(fs, info["name"].rstrip("/"))
