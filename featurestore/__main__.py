"""``python -m featurestore COMMAND STORE``: inspects a store without TensorFlow or Beam."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

from featurestore.cli.command import Parser, key_values, main, say
from featurestore.errors import UsageError
from featurestore.fields import TAP

LISTED = 20
Command = Callable[[argparse.Namespace, dict[str, Any]], int]


def build_parser() -> Parser:
    """Returns the command's parser."""
    parser = Parser(prog="python -m featurestore", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Command, text: str) -> Callable[..., argparse.Action]:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run, parser=sub)
        sub.add_argument("store", metavar="STORE", help="the store's folder, or any fsspec URL")
        sub.add_argument("--json", action="store_true", help="print the facts as JSON only")
        metavar, text = "K=V", "options for the file system, such as anon=true"
        sub.add_argument("--storage_options", nargs="+", default=[], metavar=metavar, help=text)
        return sub.add_argument

    command("info", _info, "show what is in the store and how it was made")
    add = command("runs", _runs, "list the finished runs: rates, what failed, cost")
    text = "of one worker; adds a cost: price x workers x hours of the whole run"
    add("--price_per_hour", type=float, metavar="PRICE", help=text)
    add = command("verify", _verify, "check every commit, file and row; exit code 1 for errors")
    add("--quick", action="store_true", help="read the commits only; open no part")
    add = command("quarantine", _quarantine, "list the images that could not be used, and why")
    add("--by", default="kind", help="count by kind, folder or message (default %(default)s)")
    text = f"number of images to list, 0 for all (default {LISTED}; all with --json)"
    add("--limit", type=int, metavar="N", help=text)
    add = command("relabel", _relabel, "give stored rows labels or splits from a table")
    add("--labels", required=True, metavar="FILE", help="CSV with a header line, or Parquet")
    add("--key_column", default="", metavar="NAME", help="column of keys (default: the first)")
    text = "column of labels (default: the one named label or class, else the second)"
    add("--label_column", default="", metavar="NAME", help=text)
    text = "column of splits, such as train and test (default: splits stay as they are)"
    add("--split_column", default="", metavar="NAME", help=text)
    add = command("export", _export, "write embeddings to .npy files, metadata to Parquet files")
    add("--tap", default="", metavar="NAME", help=TAP)
    add("--output", required=True, metavar="DIR", help="an empty folder, or any fsspec URL")
    add("--splits", nargs="+", metavar="SPLIT", help="export rows of these splits only")
    add("--all_views", action="store_true", help="export augmented views too")
    add("--rows_per_file", type=int, default=1_000_000, help="at most (default %(default)s)")
    add("--dtype", default="", help="float16 or float32 (default: as stored)")
    add("--flatten", action="store_true", help="write each map as one vector")
    add = command("compact", _compact, "merge small parts, beside readers and running extractions")
    text = "size of part to aim at (default %(default)s)"
    add("--part_size", default="256MB", metavar="SIZE", help=text)
    text = "hours that replaced files stay for their readers (default %(default)s)"
    add("--keep_hours", type=float, default=24.0, metavar="H", help=text)
    add = command("snapshot", _snapshot, "write the rows and labels that count to plain Parquet")
    add("--tap", default="", metavar="NAME", help=f"{TAP} (default: all, a column each)")
    add("--output", required=True, metavar="DIR", help="an empty folder, or any fsspec URL")
    add("--rows_per_file", type=int, default=1_000_000, help="at most (default %(default)s)")
    return parser


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    args, unknown = build_parser().parse_known_args(argv)
    args.parser.refuse_unknown(unknown)
    return args.run(args, key_values(args.storage_options, "--storage_options"))


def _info(args: argparse.Namespace, options: dict[str, Any]) -> int:
    from featurestore.info import describe, format_info
    from featurestore.store import open_store

    facts = describe(open_store(args.store, options))
    say(json.dumps(facts, indent=2) if args.json else format_info(facts))
    return 0


def _runs(args: argparse.Namespace, options: dict[str, Any]) -> int:
    from featurestore.runs.finished import format_runs, runs_record
    from featurestore.store import open_store

    price = args.price_per_hour
    if price is not None and not 0 <= price < math.inf:
        raise UsageError(f"--price_per_hour must be 0 or more, got {price}")
    storage = open_store(args.store, options).storage
    if args.json:
        say(json.dumps(runs_record(storage, price), indent=2))
        return 0
    for line in format_runs(storage, price):
        say(line)
    return 0


def _verify(args: argparse.Namespace, options: dict[str, Any]) -> int:
    from featurestore.checking.findings import ERROR, Checked
    from featurestore.checking.verify import verify_storage
    from featurestore.io.storage import Storage

    storage, checked, findings = Storage(args.store, options), Checked(), []
    for finding in verify_storage(storage, quick=args.quick, checked=checked):
        findings.append(finding)
        if not args.json:
            say(str(finding))
    errors = sum(finding.severity == ERROR for finding in findings)
    warnings = len(findings) - errors
    facts = {
        "store": storage.public_url,
        "quick": args.quick,
        "checked": asdict(checked),
        "errors": errors,
        "warnings": warnings,
        "findings": [finding.to_record() for finding in findings],
    }
    if args.json:
        say(json.dumps(facts, indent=2))
    else:
        covered = f"{checked.commits:,} commits"
        if not args.quick:
            covered += f", {checked.files:,} files and {checked.rows:,} images"
        plural = ("" if errors == 1 else "s", "" if warnings == 1 else "s")
        say(f"{covered} checked: {errors} error{plural[0]}, {warnings} warning{plural[1]}")
    return int(errors > 0)


def _quarantine(args: argparse.Namespace, options: dict[str, Any]) -> int:
    from featurestore.quarantine import count_quarantined, format_quarantine
    from featurestore.store import open_store

    if args.limit is not None and args.limit < 0:
        raise UsageError(f"--limit must be 0 or more, got {args.limit}")
    limit = (None if args.json else LISTED) if args.limit is None else (args.limit or None)
    store = open_store(args.store, options).at_this_moment()
    counts = count_quarantined(store, args.by)
    rows = islice(store.quarantined(), limit)
    if args.json:
        total = sum(counts.values())
        facts = {"store": store.url, "total": total, "by": args.by, "counts": counts}
        say(json.dumps({**facts, "images": list(rows)}, indent=2))
        return 0
    for line in format_quarantine(counts, rows, args.by):
        say(line)
    return 0


def _relabel(args: argparse.Namespace, options: dict[str, Any]) -> int:
    from featurestore.relabel import read_tables, relabel, summary_lines
    from featurestore.store import open_store

    store = open_store(args.store, options)
    asked = args.key_column, args.label_column, args.split_column
    table, splits, columns = read_tables(args.labels, asked, options)
    done = relabel(store, table, splits)
    if args.json:
        say(json.dumps({"store": store.url, "columns": columns, **asdict(done)}, indent=2))
    else:
        for line in (columns, *summary_lines(done)):
            say(line)
    return 0


def _export(args: argparse.Namespace, options: dict[str, Any]) -> int:
    from featurestore.export import ExportOptions, export
    from featurestore.io.storage import Storage
    from featurestore.store import open_store

    wanted = ExportOptions(
        splits=tuple(args.splits) if args.splits else None,
        views=None if args.all_views else (0,),
        rows_per_file=args.rows_per_file,
        dtype=args.dtype,
        flatten=args.flatten,
    )
    facts = export(open_store(args.store, options, args.tap), Storage(args.output, options), wanted)
    if args.json:
        say(json.dumps(facts, indent=2))
    else:
        say(
            f"{facts['rows']:,} rows of {facts['dimension']:,} {facts['dtype']} written to "
            f"{facts['files']:,} files in {facts['output']}/img_emb, with metadata beside it"
        )
    return 0


def _compact(args: argparse.Namespace, options: dict[str, Any]) -> int:
    from featurestore.compaction.compact import compact
    from featurestore.store import open_store
    from featurestore.units import parse_size

    size = parse_size(args.part_size, "--part_size", "a size")
    if not size or args.keep_hours < 0:
        raise UsageError("--part_size must be above 0 and --keep_hours at least 0")
    store = open_store(args.store, options)
    done = compact(store, size, args.keep_hours * 3600)
    if args.json:
        say(json.dumps({"store": store.url, **asdict(done)}, indent=2))
        return 0
    say(f"commits merged: {done.merged:,}, into parts: {done.parts:,}")
    if done.dropped:
        say(f"superseded images left out: {done.dropped:,}")
    if done.removed:
        say(f"replaced files removed: {done.removed:,}")
    if done.waiting:
        say(
            f"the files of {done.waiting:,} replaced commits stay {args.keep_hours:g} hours for "
            "their readers; then the same command removes them"
        )
    return 0


def _snapshot(args: argparse.Namespace, options: dict[str, Any]) -> int:
    from featurestore.compaction.snapshot import snapshot
    from featurestore.io.storage import Storage
    from featurestore.store import open_store

    output = Storage(args.output, options)
    facts = snapshot(open_store(args.store, options, args.tap), output, args.rows_per_file)
    if args.json:
        say(json.dumps(facts, indent=2))
    else:
        say(f"{facts['rows']:,} rows written to {facts['files']:,} files in {facts['output']}")
    return 0


if __name__ == "__main__":
    main(run)
