"""Packs a folder of images into shards, or shards into a folder; bytes stay as they are.

    python -m pipelines.pack --input photos --output shards --format tar
    python -m pipelines.pack --input 'shards/*.tar' --output photos-again --format folder

Keys, labels and splits go along. OUTPUT/pack.json accounts for every image.
"""

from __future__ import annotations

import itertools
import json
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from classifier.inputs import (
    SHARD_ERRORS,
    Asked,
    ImageRef,
    InputOptions,
    ShardRef,
    iter_shard,
    list_inputs,
    read_many,
)
from classifier.inputs.found import Found
from classifier.pixels.filetypes import sniff
from featurestore.cli.command import Parser, key_values, main, say
from featurestore.errors import UsageError, one_line, unknown_choice
from featurestore.ignored import note_lines
from featurestore.io.storage import Storage, public_url
from featurestore.ledger import Ledger
from pipelines.packing.pack import SHARD_FILES, Item, ShardWriter
from pipelines.packing.unpack import LABELS_FILE, FolderWriter

KEPT = "--output is unfinished; delete what is in it, and give the same command again"
RECORD = "pack.json"
FORMATS = (*SHARD_FILES, "folder")
MAX_LISTED = 1000
_READ_AT_ONCE = 32
_SUFFIXES = {"jpeg": ".jpg", "tiff": ".tif"}
Source = tuple[ImageRef, bytes | OSError, ShardRef | None]


@dataclass(frozen=True)
class PackOptions:
    """What ``python -m pipelines.pack`` was asked for.

    Attributes:
      inputs: folders, patterns, lists or shards.
      output: an empty or new folder.
      format: ``tar``, ``tfrecord``, ``parquet`` or ``folder``.
      shard_size: images per shard.
      max_bad_fraction: of unreadable images, beyond which the run has failed.
      reading: how inputs are read.
    """

    inputs: tuple[str, ...]
    output: str
    format: str
    shard_size: int = 1000
    max_bad_fraction: float = 0.1
    reading: InputOptions = field(default_factory=InputOptions)

    def __post_init__(self) -> None:
        if not self.inputs:
            raise UsageError("--input is missing: give a folder of images, or shards")
        if not self.output:
            raise UsageError("--output is missing: give a new folder")
        if self.format not in FORMATS:
            raise unknown_choice("--format", self.format, FORMATS)
        if self.shard_size < 1:
            raise UsageError(f"--shard_size must be at least 1, got {self.shard_size}")
        if not 0 <= self.max_bad_fraction <= 1:
            raise UsageError(f"--max_bad_fraction must be 0 to 1, got {self.max_bad_fraction}")


@dataclass
class _Account:
    """Where every image went."""

    images_in: int = 0
    packed: int = 0
    unreadable: int = 0
    messages: list[Mapping[str, str]] = field(default_factory=list)
    damaged: list[Mapping[str, Any]] = field(default_factory=list)
    found: Found = field(default_factory=Found)


def pack(options: PackOptions, told: Callable[[str], None] | None = None) -> Mapping[str, Any]:
    """Packs every image of the inputs.

    Args:
      options: what to do.
      told: is given one line for every list and kind of shard: the columns taken.

    Returns:
      The content of ``pack.json``.

    Raises:
      UsageError: for a mistake in the inputs, or an output that is not empty.
      RunFailed: when an image is unaccounted for.
    """
    storage = Storage(options.output, options.reading.storage_options)
    account = _Account(found=Found(say=told))
    sources = _sources(options, account)
    head = list(itertools.islice(sources, 1))
    _check_output(options, storage)
    if not head and not account.damaged:
        where = ", ".join(repr(public_url(uri)) for uri in options.inputs)
        others = [
            f"{account.found.ignored.count} other files",
            *note_lines(account.found.ignored.notes.values()),
        ]
        raise UsageError(f"--input: no images in {where}; {'; '.join(others)}")
    writer: ShardWriter | FolderWriter = FolderWriter(storage)
    if options.format != "folder":
        writer = ShardWriter(storage, options.format, options.shard_size)
    with writer:
        for ref, data, shard in itertools.chain(head, sources):
            account.images_in += 1
            account.found.count(ref.labels, ref.split)
            if isinstance(data, OSError):
                account.unreadable += 1
                if len(account.messages) < MAX_LISTED:
                    account.messages.append({"key": ref.key, "message": str(data)})
            else:
                writer.add(_item(ref, data, shard))
    account.packed = sum(writer.files.values())
    record = _record(options, account, writer)
    storage.write(RECORD, json.dumps(record, indent=2, ensure_ascii=False))
    return record


def _check_output(options: PackOptions, storage: Storage) -> None:
    if storage.list(""):
        raise UsageError(
            f"--output {public_url(options.output)!r} is not empty; give a new folder, or delete "
            "what an interrupted run left there"
        )


def _sources(options: PackOptions, account: _Account) -> Iterator[Source]:
    """Yields every image with its bytes, in order; notes the shards that are damaged."""
    settings = options.reading.storage_options
    reading = replace(options.reading, output=options.output)
    refs = list_inputs(options.inputs, reading, account.found)
    for kind, group in itertools.groupby(refs, key=type):
        if kind is ImageRef:
            while images := [r for r in itertools.islice(group, _READ_AT_ONCE)]:
                found = [ref for ref in images if isinstance(ref, ImageRef)]
                for ref, data in zip(found, read_many(found, settings), strict=True):
                    yield ref, data, None
            continue
        for shard in group:
            if not isinstance(shard, ShardRef):
                continue
            try:
                for ref, data in iter_shard(shard, settings, account.found.ignored):
                    yield ref, data, shard
            except SHARD_ERRORS as error:
                place = {"key": shard.key, "offset": getattr(error, "offset", None)}
                account.damaged.append({**place, "message": one_line(error)})


def _item(ref: ImageRef, data: bytes, shard: ShardRef | None) -> Item:
    if shard is None:
        return Item(ref.key, ref.labels, ref.split, data)
    path = ref.key.removeprefix(f"{shard.key}/")
    if shard.format in ("tfrecord", "parquet") and path.isdigit() and (kind := sniff(data)):
        # A record without a name of its own; as a file it needs a suffix.
        path += _SUFFIXES.get(kind, f".{kind}")
    origin = posixpath.basename(shard.key).partition(".")[0]
    return Item(path, ref.labels, ref.split, data, origin)


def _record(
    options: PackOptions, account: _Account, writer: ShardWriter | FolderWriter
) -> Mapping[str, Any]:
    ignored = account.found.ignored
    counts = (account.images_in, account.packed, account.unreadable)
    Ledger(*counts, ignored=ignored.count).check("pack")
    return {
        "format": options.format,
        "inputs": [public_url(uri) for uri in options.inputs],
        "ledger": {
            **dict(zip(("images_in", "packed", "unreadable"), counts, strict=True)),
            "ignored": ignored.count,
            "damaged_shards": len(account.damaged),
        },
        "files": writer.files,
        "classes": list(writer.classes.numbers),
        "labels_in_folders": writer.told,
        "found": account.found.lines(),
        "ignored": ignored.names,
        "notes": list(ignored.notes.values()),
        "unreadable": account.messages,
        "damaged": account.damaged,
    }


def problems_of(options: PackOptions, record: Mapping[str, Any]) -> tuple[list[str], int]:
    """Checks a finished run: (one line for each problem, exit code 0, 1 or 3)."""
    ledger, problems, code = record["ledger"], [], 0
    if record["damaged"]:
        first = record["damaged"][0]
        problems.append(
            f"{ledger['damaged_shards']} damaged or unreadable shards, first {first['key']!r}: "
            f"{first['message']}; what was readable before is packed"
        )
        code = 3
    images, bad = ledger["images_in"], ledger["unreadable"]
    if images and bad / images > options.max_bad_fraction:
        problems.append(
            f"{bad} of {images} images could not be read, more than --max_bad_fraction "
            f"{options.max_bad_fraction:g} allows; the reasons are in {RECORD}"
        )
        code = 1
    return problems, code


def build_parser() -> Parser:
    """Returns the command's parser."""
    parser = Parser(prog="python -m pipelines.pack", description=__doc__)
    parser.add_argument("--input", nargs="+", action="extend", default=[], metavar="URI")
    parser.add_argument("--output", default="", metavar="FOLDER", help="a new folder")
    parser.add_argument("--format", default="tar", metavar="|".join(FORMATS), help="default tar")
    parser.add_argument("--shard_size", type=int, default=1000, metavar="N", help="default 1000")
    parser.add_argument("--layout", default="auto", metavar="auto|class|split|flat")
    for flag in ("--image_column", "--label_column"):
        text = "of a list, Parquet or TFRecord"
        parser.add_argument(flag, default="", metavar="NAME", help=text)
    parser.add_argument("--max_bad_fraction", type=float, default=0.1, metavar="F")
    parser.add_argument("--storage_options", nargs="+", action="extend", default=[], metavar="K=V")
    parser.add_argument("--json", action="store_true", help="print pack.json and no more")
    return parser


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    args = build_parser().parse_args(argv)
    options = PackOptions(
        inputs=tuple(args.input),
        output=args.output,
        format=args.format,
        shard_size=args.shard_size,
        max_bad_fraction=args.max_bad_fraction,
        reading=InputOptions(
            args.layout,
            key_values(args.storage_options, "--storage_options"),
            Asked(args.image_column, args.label_column),
        ),
    )
    record = pack(options, None if args.json else say)
    problems, code = problems_of(options, record)
    if args.json:
        say(json.dumps({**record, "problems": problems}, indent=2))
    else:
        for line in record["found"]:
            say(line)
        ledger = record["ledger"]
        say(
            f"ledger: {ledger['images_in']:,} images in = {ledger['packed']:,} packed + "
            f"{ledger['unreadable']:,} unreadable; {ledger['ignored']:,} other files ignored"
        )
        for line in note_lines(record["notes"]):
            say(f"note: {line}")
        what = "folders" if options.format == "folder" else "shards"
        say(f"{len(record['files']):,} {what} in {public_url(options.output)}, see {RECORD}")
        if not record["labels_in_folders"]:
            say(
                f"the folders alone do not tell every label: give {LABELS_FILE}, which lies beside "
                "them, as --labels"
            )
    for problem in problems:
        say(f"error: {problem}", to_stderr=True)
    return code


if __name__ == "__main__":
    main(run, kept=KEPT)
