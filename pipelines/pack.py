"""Packs a folder of images into shards, or shards into a folder, without changing the images.

    python -m pipelines.pack --input photos --output shards --format tar
    python -m pipelines.pack --input 'shards/*.tar' --output photos-again --format folder

Keys, labels and splits are kept. OUTPUT/pack.json accounts for every image.
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
from featurestore.cli.command import Parser, main, say
from featurestore.errors import UsageError, one_line, unknown_choice
from featurestore.ignored import note_lines
from featurestore.io.storage import Storage, public_url
from featurestore.ledger import Ledger
from pipelines.flags import FLAGS, add_flags, reading_options
from pipelines.packing.folders import LABELS_FILE, FolderWriter
from pipelines.packing.shards import SHARD_FILES, Item, ShardWriter
from pipelines.planning.listing import no_images

KEPT = "--output is unfinished; delete its content, and give the same command again"
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
      max_bad_fraction: fraction of unreadable images above which the run fails.
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


def pack(options: PackOptions, say: Callable[[str], None] | None = None) -> Mapping[str, Any]:
    """Packs every image of the inputs.

    Args:
      options: what to do.
      say: shows a line about the columns of each list and kind of shard.

    Returns:
      The content of ``pack.json``.

    Raises:
      UsageError: for a mistake in the inputs, or an output that is not empty.
      RunFailed: when an image is unaccounted for.
    """
    storage = Storage(options.output, options.reading.storage_options)
    account = _Account(found=Found(say=say))
    sources = _sources(options, account)
    head = list(itertools.islice(sources, 1))
    _check_output(options, storage)
    if not head and not account.damaged:
        raise no_images(options.inputs, account.found.ignored)
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
    """Yields every image with its bytes, in order; notes the damaged shards."""
    settings = options.reading.storage_options
    reading = replace(options.reading, output=options.output)
    refs = list_inputs(options.inputs, reading, account.found)
    for kind, group in itertools.groupby(refs, key=type):
        if kind is ImageRef:
            images = (ref for ref in group if isinstance(ref, ImageRef))
            while some := list(itertools.islice(images, _READ_AT_ONCE)):
                for ref, data in zip(some, read_many(some, settings), strict=True):
                    yield ref, data, None
        for shard in (ref for ref in group if isinstance(ref, ShardRef)):
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
        # A record has no name of its own; a file needs a suffix.
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
        "labels_in_folders": writer.labels_in_folders,
        "found": account.found.lines(),
        "ignored": ignored.names,
        "notes": list(ignored.notes.values()),
        "unreadable": account.messages,
        "damaged": account.damaged,
    }


def problems_of(options: PackOptions, record: Mapping[str, Any]) -> tuple[list[str], int]:
    """Checks a finished run; returns a line for each problem, and the exit code 0, 1 or 3."""
    ledger, problems, code = record["ledger"], [], 0
    if record["damaged"]:
        first = record["damaged"][0]
        problems.append(
            f"{ledger['damaged_shards']} damaged or unreadable shards, first {first['key']!r}: "
            f"{first['message']}; the images before the damage are packed"
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
    add = parser.add_argument
    add_flags(add, ("input", "storage_options", "layout", "image_column", "max_bad_fraction"))
    add("--label_column", default="", metavar="NAME", help=FLAGS["image_column"].help)
    add("--output", default="", metavar="FOLDER", help="a new folder")
    add("--format", default="tar", metavar="|".join(FORMATS), help="default tar")
    add("--shard_size", type=int, default=1000, metavar="N", help="images per shard; default 1000")
    add("--json", action="store_true", help="print pack.json only")
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
        reading=reading_options(args, Asked(args.image_column, args.label_column)),
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
                f"the folders alone do not show every label: give {LABELS_FILE}, which is beside "
                "them, as --labels"
            )
    for problem in problems:
        say(f"error: {problem}", to_stderr=True)
    return code


if __name__ == "__main__":
    main(run, kept=KEPT)
