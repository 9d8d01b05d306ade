"""How two folders lie to each other, whichever way their addresses are written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from featurestore.io.urls import connect, host_of, is_chain


def relation(folder: str, other: str, options: Mapping[str, Any] | None = None) -> str:
    """Says how one folder lies to another.

    Args:
      folder: address of an output.
      other: the other's.
      options: for their file systems.

    Returns:
      ``equals``, ``lies inside`` or ``contains`` as the verb from the first to the second; "" for
      folders apart.

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
    """Returns what two addresses of one folder have in common: (file system, host), path."""
    # Behind fsspec's caches lies the folder itself.
    fs, path = connect(url.rpartition("::")[2] if is_chain(url) else url, options, flag)
    if isinstance(fs, LocalFileSystem):
        path = os.path.realpath(path)
    return (type(fs).__name__, host_of(fs)), path.strip("/")
