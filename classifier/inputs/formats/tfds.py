"""Reads the files that TensorFlow Datasets writes beside its shards; slices FOLDER#train[:40%].

The slice of a shard is part of its etag, see `classifier.inputs.records`.
"""

from __future__ import annotations

import dataclasses
import json
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from classifier.inputs.records import END, with_records
from classifier.inputs.refs import ShardRef
from featurestore.errors import UsageError, did_you_mean, unknown_choice
from featurestore.io.retry import retrying
from featurestore.io.urls import public_url
from featurestore.labels.splits import split_of

INFO_FILE = "dataset_info.json"
_LABELS_SUFFIX = ".labels.txt"
_REQUEST = re.compile(
    r"(?P<folder>.+)#(?P<split>[\w-]+)(?:\[(?P<low>(?:-?\d{1,18}%?)?):(?P<high>(?:-?\d{1,18}%?)?)\])?"
)
_NAMED = re.compile(r"(?P<name>[A-Za-z]+)=(?P<address>[^=]+#.+)")
_SPLITS = ("train", "validation", "test")
_LIKE_A_REQUEST = re.compile(r".+#[\w+-]+(?:\[[^/]*)?")


def read_class_names(fs: Any, shard_path: str) -> dict[str, list[str]]:
    """Returns the class names of each integer feature, from the files beside a shard.

    Args:
      fs: the file system.
      shard_path: the shard's path on it.
    """
    folder = posixpath.dirname(shard_path)
    try:
        listed = retrying(lambda: fs.ls(folder, detail=False))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return {}
    found = {}
    for path in sorted(listed):
        if path.endswith(_LABELS_SUFFIX):
            feature = posixpath.basename(path).removesuffix(_LABELS_SUFFIX)
            text = retrying(partial(fs.cat_file, path)).decode("utf-8", errors="replace")
            found[feature] = [line.strip() for line in text.splitlines() if line.strip()]
    return found


@dataclasses.dataclass(frozen=True)
class Slice:
    """A part of one split.

    Attributes:
      split: its name.
      low: the first example, a number or ``N%``, negative from the end, or "".
      high: the end, likewise.
    """

    split: str
    low: str = ""
    high: str = ""

    def bounds(self, examples: int) -> tuple[int, int]:
        """Returns the range of examples, rounded to the nearest as in TensorFlow Datasets.

        Example:
          >>> Slice("train", "", "40%").bounds(99), Slice("train", "-10", "").bounds(99)
          ((0, 40), (89, 99))
        """
        low, high = _position(self.low, 0, examples), _position(self.high, examples, examples)
        return low, max(low, high)


def _position(text: str, default: int, examples: int) -> int:
    if not text:
        return default
    value = round(int(text[:-1]) * examples / 100) if text.endswith("%") else int(text)
    return min(max(value + examples if text.startswith("-") else value, 0), examples)


def split_request(uri: str) -> tuple[str, Slice | None]:
    """Splits an ``--input`` into folder and slice.

    Args:
      uri: an address under which nothing exists.

    Raises:
      UsageError: for what looks like a slice but is not one.

    Example:
      >>> split_request("mnist/3.0.1#train[:40%]")
      ('mnist/3.0.1', Slice(split='train', low='', high='40%'))
      >>> split_request("photos")
      ('photos', None)
    """
    match = _REQUEST.fullmatch(uri)
    if not match:
        if _LIKE_A_REQUEST.fullmatch(uri):
            raise UsageError(
                f"--input: {'#' + uri.rpartition('#')[2]!r} is not a slice of a split; write "
                "#train, or #train[A:B] where A and B are empty, example numbers or whole "
                "percents, each with - to count from the end, such as #train[:-10] or #train[40%:]"
            )
        return uri, None
    return match["folder"], Slice(match["split"], match["low"] or "", match["high"] or "")


def named_split(uri: str) -> tuple[str, str]:
    """Splits ``NAME=FOLDER#SLICE`` into the split that the slice becomes, and its address.

    Args:
      uri: an ``--input``.

    Returns:
      (split, address); without a name ("", `uri`).

    Raises:
      UsageError: for a name that resembles a split.

    Example:
      >>> named_split("val=mnist/3.0.1#train[40%:50%]")
      ('validation', 'mnist/3.0.1#train[40%:50%]')
      >>> named_split("mnist/3.0.1#train"), named_split("train=photos")
      (('', 'mnist/3.0.1#train'), ('', 'train=photos'))
    """
    match = _NAMED.fullmatch(uri)
    if not match:
        return "", uri
    split = split_of(match["name"])
    if split is None and did_you_mean(match["name"], _SPLITS):
        raise unknown_choice("--input NAME=FOLDER#SLICE: split", match["name"], _SPLITS)
    return (split, match["address"]) if split else ("", uri)


def public_input(uri: str) -> str:
    """Returns an ``--input`` without credentials, with the name of its split."""
    split, address = named_split(uri)
    return f"{split}={public_url(address)}" if split else public_url(address)


def read_shard_lengths(fs: Any, folder: str) -> dict[str, list[int]] | None:
    """Returns the number of examples in each shard of each split; None for another folder."""
    try:
        info = json.loads(retrying(lambda: fs.cat_file(f"{folder}/{INFO_FILE}")))
        return {s["name"]: [int(n) for n in s["shardLengths"]] for s in info["splits"]}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"--input: {folder}/{INFO_FILE} cannot be read: {error!r}") from error


def take(
    shards: Sequence[ShardRef], wanted: Slice, lengths: Mapping[str, Sequence[int]]
) -> Iterator[ShardRef]:
    """Yields the shards that hold a slice, each with the records wanted.

    Args:
      shards: of the whole folder, in order.
      wanted: the slice.
      lengths: examples per shard of each split.

    Raises:
      UsageError: for an unknown split, an empty slice, or a missing shard.
    """
    if wanted.split not in lengths:
        raise unknown_choice("--input ...#", wanted.split, lengths)
    counts = lengths[wanted.split]
    pattern = re.compile(rf"(?:^|-){re.escape(wanted.split)}\.\w+-(\d+)-of-0*{len(counts)}$")
    by_number = {}
    for shard in shards:
        if match := pattern.search(posixpath.basename(shard.key)):
            by_number[int(match[1])] = shard
    low, high = wanted.bounds(sum(counts))
    if low >= high:
        raise UsageError(
            f"--input: #{wanted.split}[{wanted.low}:{wanted.high}] takes none of the "
            f"{sum(counts):,} examples of split {wanted.split!r}; give an end behind its start"
        )
    start = 0
    for number, count in enumerate(counts):
        first, last = max(low - start, 0), min(high - start, count)
        start += count
        if first >= last:
            continue
        if number not in by_number:
            raise UsageError(
                f"--input: shard {number} of {len(counts)} of split {wanted.split!r} is missing"
            )
        # A slice that ends with its shard has no end, so that slices can join to the whole file.
        yield with_records(by_number[number], ((first, END if last == count else last),))
