"""Detects the one layout that archives of a set, such as ``train-0001.tar``, ``-0002.tar``, share.

Each archive holds only a part of the tree, and a part may look otherwise than the whole: in one
with ``cat/session1`` and ``cat/session2``, ``cat`` seems to wrap two classes. So the layout is
detected from the first 64 members of up to 8 archives, and a member that does not fit it is refused
when it is read. Where the first image lies in no folder, as in a WebDataset, nothing wraps the
whole, and no other archive is opened.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from classifier.inputs.found import Found
from classifier.inputs.layouts import TOP, Layout, find_layout
from classifier.inputs.refs import ImageRef, ShardRef, has_image_suffix, is_hidden
from classifier.inputs.shards import MEMBER_NAMES, SHARD_ERRORS
from classifier.inputs.trees import MemberTree

ARCHIVES, MEMBERS = 8, 64
_DIGITS = re.compile(r"\d+")


def with_layouts(
    refs: Iterable[ImageRef | ShardRef],
    asked: str,
    storage_options: Mapping[str, Any],
    found: Found,
) -> Iterator[ImageRef | ShardRef]:
    """Sets the layout of each archive of a root.

    Args:
      refs: the images and archives of the root.
      asked: the user's layout, or ``auto``.
      storage_options: for the archives.
      found: collects the layouts of the sets.

    Yields:
      The images, then the shards, each in the order given.
    """
    shards: list[ShardRef] = []
    for ref in refs:
        if isinstance(ref, ShardRef):
            shards.append(ref)
        else:
            yield ref
    sets: dict[str, list[ShardRef]] = {}
    for shard in shards:
        if asked == "auto" and shard.format in MEMBER_NAMES:
            sets.setdefault(_DIGITS.sub("#", shard.key), []).append(shard)
    layouts: dict[str, str] = {}
    for members in sets.values():
        if len(members) > 1:
            layout = _layout_of(members, storage_options)
            layouts.update((shard.key, layout.encode() if layout else TOP) for shard in members)
            if layout:
                name = f"{members[0].key} and {len(members) - 1:,} more"
                found.layouts.setdefault(name, layout)
    yield from (replace(shard, layout=layouts.get(shard.key, asked)) for shard in shards)


def _layout_of(shards: Sequence[ShardRef], storage_options: Mapping[str, Any]) -> Layout | None:
    """Returns the layout of a set; None where its first image lies in no folder."""
    names: list[str] = []
    is_first = True
    step = -(-len(shards) // ARCHIVES)
    for shard in shards[::step]:
        for name in _first_names(shard, storage_options):
            names.append(name)
            if has_image_suffix(name):
                if is_first and "/" not in name:
                    return None
                is_first = False
    return find_layout(MemberTree(names))


def _first_names(shard: ShardRef, storage_options: Mapping[str, Any]) -> Iterator[str]:
    members = MEMBER_NAMES[shard.format](shard, storage_options)
    try:
        for name in itertools.islice(members, MEMBERS):
            if not is_hidden(name):
                yield name
    except SHARD_ERRORS:
        return  # reading the archive itself will raise the error again
