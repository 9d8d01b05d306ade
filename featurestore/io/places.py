"""Compares the places of two folders, however their addresses are written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from featurestore.io.urls import connect, host_of, is_chain


def relation(folder: str, other: str, options: Mapping[str, Any] | None = None) -> str:
    """Returns how one folder relates to another.

    Args:
      folder: address of an output.
      other: address of the other folder.
      options: for their file systems.

    Returns:
      ``equals``, ``lies inside`` or ``contains``, the verb between the first folder and the second;
      "" when neither contains the other.

    Raises:
      UsageError: for an address that cannot be opened.

    Example:
      >>> relation("s3x/in/out", "s3x/in"), relation("s3x/in2", "s3x/in"), relation("a/", "./a")
      ('lies inside', '', 'equals')
    """
    system, path = _place(folder, options, "--output")
    other_system, other_path = _place(other, options, "URL")
    if system != other_system:
        return ""
    if path == other_path:
        return "equals"
    if not other_path or path.startswith(f"{other_path}/"):
        return "lies inside"
    return "contains" if not path or other_path.startswith(f"{path}/") else ""


def _place(url: str, options: Mapping[str, Any] | None, flag: str) -> tuple[tuple[str, str], str]:
    """Returns ((file system, host), path), equal for all addresses of one folder."""
    # A chain such as simplecache::URL addresses the folder of its last link.
    fs, path = connect(url.rpartition("::")[2] if is_chain(url) else url, options, flag)
    if isinstance(fs, LocalFileSystem):
        path = os.path.realpath(path)
    return (type(fs).__name__, host_of(fs)), path.strip("/")
