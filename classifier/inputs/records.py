"""Sets of ranges of a shard's records, as a suffix of its etag.

A slice such as ``#train[:40%]`` takes some records of a file. ``ETAG#0:40,50:`` names them beside
the file's version, so that the same file with other records is another input. Without a suffix, the
whole file is read.
"""

from __future__ import annotations

import dataclasses
import re

from classifier.inputs.refs import ShardRef

# Sorted, disjoint, half-open; END means the end of the file.
Ranges = tuple[tuple[int, int], ...]
END = 1 << 62
WHOLE: Ranges = ((0, END),)
_SUFFIX = re.compile(r"#(\d+:\d*(?:,\d+:\d*)*)$")


def records_of(etag: str) -> Ranges:
    """Returns the records that an etag names.

    Example:
      >>> records_of("17.5#0:40,50:") == ((0, 40), (50, END)), records_of("17.5") == WHOLE
      (True, True)
    """
    match = _SUFFIX.search(etag)
    if not match:
        return WHOLE
    pairs = (part.split(":") for part in match[1].split(","))
    return tuple((int(first), int(end) if end else END) for first, end in pairs)


def file_etag(etag: str) -> str:
    """Returns the etag of the whole file.

    Example:
      >>> file_etag("17.5#0:40"), file_etag("17.5")
      ('17.5', '17.5')
    """
    return _SUFFIX.sub("", etag)


def with_records(shard: ShardRef, records: Ranges) -> ShardRef:
    """Returns a reference to some records of a shard."""
    etag = file_etag(shard.etag)
    if records != WHOLE:
        etag += "#" + ",".join(f"{first}:{'' if end == END else end}" for first, end in records)
    return dataclasses.replace(shard, etag=etag)


def union(*sets: Ranges) -> Ranges:
    """Returns the records in any of the sets.

    Example:
      >>> union(((0, 4), (8, 9)), ((4, 6),))
      ((0, 6), (8, 9))
    """
    merged: list[tuple[int, int]] = []
    for first, end in sorted(pair for ranges in sets for pair in ranges):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((first, end))
    return tuple(merged)


def without(records: Ranges, gone: Ranges) -> Ranges:
    """Returns the records of the first set that are not in the second.

    Example:
      >>> without(((0, 60),), ((0, 40), (50, 55)))
      ((40, 50), (55, 60))
    """
    left: list[tuple[int, int]] = []
    for first, end in records:
        for low, high in gone:
            if low < end and high > first:
                left.append((first, low))
                first = max(first, high)
        left.append((first, end))
    return tuple((first, end) for first, end in left if first < end)


def holds(records: Ranges, number: int) -> bool:
    """Whether a record is in the set."""
    return any(first <= number < end for first, end in records)
