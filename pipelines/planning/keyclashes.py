"""Tells a folder that moved from another folder with the same names and other images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from classifier.inputs.lister import Lister
from featurestore.errors import UsageError
from featurestore.io.sorting import digests
from featurestore.io.urls import connect
from featurestore.store import FeatureStore
from pipelines.planning.inventory import Inventory, digest
from pipelines.planning.visible import visible_inputs

_AT_ONCE = 32
_BLOCK = 4096
Clash = tuple[str, str, str]  # (key, address that is stored, address that is listed)


def refuse_key_clashes(
    store: FeatureStore, inventory: Inventory, options: Mapping[str, Any]
) -> None:
    """Refuses an input that has the key of a stored image which is still at its own address.

    A folder that moved keeps its keys, and that is fine. Another folder with the same names below
    it would replace the stored images. Each stored address is looked up, because some images of a
    folder may be gone and others in place.

    Args:
      store: the one with the stored images.
      inventory: of the store, after it decided on every input.
      options: for the inputs' file systems.

    Raises:
      UsageError: names one such input, or one whose stored address cannot be looked up.
    """
    clashes = _clashes(store, inventory)
    pool = ThreadPoolExecutor(_AT_ONCE)
    try:
        while block := list(islice(clashes, _BLOCK)):
            in_place = pool.map(partial(_is_in_place, options=options), block)
            for (key, stored, listed), stays in zip(block, in_place, strict=True):
                if stays:
                    raise UsageError(
                        f"--input: {listed!r} has the key {key!r} of {stored!r}, which is stored "
                        "already and still there; give both folders in one command, which tells "
                        "their keys apart, or choose another --output"
                    )
    finally:
        pool.shutdown(cancel_futures=True)


def _clashes(store: FeatureStore, inventory: Inventory) -> Iterator[Clash]:
    """Yields each key whose stored address is not the listed one."""
    if not inventory.moved:
        return
    seen: set[str] = set()
    concerned = [n for n, m in enumerate(inventory.index.markers) if m.source]
    concerned = [*concerned, *inventory.moved_from - {-1, *concerned}]
    markers = [inventory.index.markers[number] for number in concerned]
    for marker, _, rows in visible_inputs(store, markers):
        shard = marker.source
        named = [(shard["key"], shard["uri"])] if shard else ((row[0], row[1]) for row in rows)
        for key, stored in named:
            listed, address = inventory.moved.get(digest(key), ("", 0))
            # A shard has several commits; only the address of the newest version counts.
            if not listed or address != int(digests([stored])[0, 0]):
                continue
            if shard and key in seen:
                continue
            seen.update([key] if shard else [])
            yield key, stored, listed


def _is_in_place(clash: Clash, options: Mapping[str, Any]) -> bool:
    """Whether a file is still at the stored address, and is not the listed one."""
    _, stored, listed = clash
    try:
        fs, path = connect(stored, options)
        if not Lister(fs).kind(path):
            return False
        there = connect(listed, options)
        if isinstance(fs, LocalFileSystem) and isinstance(there[0], LocalFileSystem):
            return not os.path.samefile(path, there[1])
    except (OSError, UsageError) as error:
        raise UsageError(
            f"--input: {listed!r} has the key of {stored!r}, and nothing says whether that has "
            f"moved: {error}; make it reachable, or choose another --output"
        ) from error
    return True
