"""Lists the finished runs of a store: when, how long, how much, how fast, what failed, the cost."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from featurestore import layout
from featurestore.io.storage import Storage
from featurestore.units import compact, seconds_text

# Records are read this many at a time, and only a line of each is kept.
AT_ONCE = 32
_SHORT = {"bfloat16": "bf16", "float32": "fp32", "float16": "fp16"}
# Heading and width of each column; the first and the last stand left.
_COLUMNS = {
    "started (UTC)": 16,
    "took": 6,
    "images": 6,
    "img/s": 5,
    "bad": 5,
    "dead": 4,
    "retry": 5,
    "work": 4,
    "cost": 5,
    "engine": 0,
}


@dataclass(frozen=True)
class RunLine:
    """What the list says of one run.

    Attributes:
      run_id: of the run; its record is ``runs/<run_id>.json``.
      page: path of its page in the store, or "".
      started: in UTC, such as ``2026-11-25T10:15:00Z``.
      seconds: of the whole run.
      images: rows that it wrote.
      images_per_second: of the whole run, with its start-up.
      steady_images_per_second: between the first image and the last chunk; 0 when unknown.
      quarantined: images that could not be used.
      dead_chunks, dead_images: chunks that failed as a whole, and their images.
      retries: storage requests that were repeated; None in older records.
      workers: processes; 0 when nothing was extracted.
      engine: engine and precision; "" when nothing was extracted.
      cost: of all workers for the whole run; None without a price.
      unreadable: why the record cannot be read, or "".
    """

    run_id: str
    page: str = ""
    started: str = ""
    seconds: float = 0.0
    images: int = 0
    images_per_second: float = 0.0
    steady_images_per_second: float = 0.0
    quarantined: int = 0
    dead_chunks: int = 0
    dead_images: int = 0
    retries: int | None = None
    workers: int = 0
    engine: str = ""
    cost: float | None = None
    unreadable: str = ""


def list_runs(storage: Storage, price_per_hour: float | None = None) -> Iterator[RunLine]:
    """Yields the finished runs of a store, the oldest first, in bounded memory.

    Args:
      storage: of the store.
      price_per_hour: of one worker, in any currency; None leaves the cost out.
    """
    names = [file.name for file in storage.list("runs")]
    pages = {name for name in names if name.endswith(".html")}
    run_ids = [name.removesuffix(".json") for name in names if name.endswith(".json")]
    for start in range(0, len(run_ids), AT_ONCE):
        some = run_ids[start : start + AT_ONCE]
        files = [layout.run_file(run_id) for run_id in some]
        texts = storage.read_many(files)
        for run_id, file in zip(some, files, strict=True):
            page = layout.run_page(run_id) if f"{run_id}.html" in pages else ""
            yield _line(run_id, page, texts[file], price_per_hour)


def _line(run_id: str, page: str, text: bytes, price_per_hour: float | None) -> RunLine:
    try:
        record = json.loads(text)
        ledger, time = record["ledger"], record.get("time", {})
        workers = time.get("workers", 0)
        worked = bool(ledger["rows"] + ledger["quarantined"])
        cost = None if price_per_hour is None else price_per_hour * workers * _hours(record)
        return RunLine(
            run_id=run_id,
            page=page,
            started=record["started"],
            seconds=record["seconds"],
            images=ledger["rows"],
            images_per_second=record["images_per_second"],
            steady_images_per_second=_steady(record["seconds"], ledger["rows"], time),
            quarantined=ledger["quarantined"],
            dead_chunks=ledger["dead_chunks"],
            dead_images=ledger["dead_images"],
            retries=time.get("retries"),
            workers=workers,
            engine=_engine(record) if worked else "",
            cost=cost if cost is None else round(cost, 4),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return RunLine(run_id, page, unreadable=f"{type(error).__name__}: {error}")


def _hours(record: Mapping[str, Any]) -> float:
    return record["seconds"] / 3600


def _steady(seconds: float, rows: int, time: Mapping[str, Any]) -> float:
    """Returns images/s between the first image and the last chunk; 0 when unknown."""
    if "to_first_image" not in time:
        return 0.0
    working = seconds - time["to_first_image"] - time["after_last_chunk"]
    return round(rows / working, 3) if working > 0 else 0.0


def _engine(record: Mapping[str, Any]) -> str:
    """Returns the engines and precisions that computed a run's features."""
    used = record.get("numerics") or [record.get("engine", {})]
    names = {f"{one.get('engine', '?')} {one.get('precision', '?')}" for one in used}
    return ", ".join(sorted(names))


def unfinished_runs(storage: Storage) -> list[str]:
    """Returns the runs that are at work now or were interrupted: they have a plan but no record."""
    finished = {file.name.removesuffix(".json") for file in storage.list("runs")}
    planned = {file.name.split("/")[0] for file in storage.list("plans")}
    return sorted(run_id for run_id in planned - finished if not run_id.startswith("."))


def runs_record(storage: Storage, price_per_hour: float | None = None) -> dict[str, Any]:
    """Returns what ``python -m featurestore runs --json`` prints."""
    lines = list_runs(storage, price_per_hour)
    facts = {"store": storage.public_url, "price_per_hour": price_per_hour}
    runs = [asdict(line) for line in lines]
    return {**facts, "runs": runs, "unfinished": unfinished_runs(storage)}


def format_runs(storage: Storage, price_per_hour: float | None = None) -> Iterator[str]:
    """Yields a heading, one line per run, and the sum; no row has more than 80 columns."""
    priced = price_per_hour is not None
    yield _row(_COLUMNS, priced)
    runs, page, total = 0, "", _Total()
    for line in list_runs(storage, price_per_hour):
        runs, page = runs + 1, line.page or page
        total.add(line)
        yield _text(line, priced)
    cost = f", cost {total.cost:,.2f}" if priced else ""
    yield (
        f"{runs:,} run{'' if runs == 1 else 's'}: {total.images:,} images in "
        f"{seconds_text(total.seconds)}, {total.quarantined:,} quarantined, "
        f"{total.dead_chunks:,} dead chunks{cost}"
    )
    if unfinished := unfinished_runs(storage):
        yield f"at work or interrupted: {', '.join(unfinished)}"
    if page:
        yield f"page of the newest run that has one: {page}"


@dataclass
class _Total:
    """The sum of all runs; see `RunLine`."""

    images: int = 0
    seconds: float = 0.0
    quarantined: int = 0
    dead_chunks: int = 0
    cost: float = 0.0

    def add(self, line: RunLine) -> None:
        self.images += line.images
        self.seconds += line.seconds
        self.quarantined += line.quarantined
        self.dead_chunks += line.dead_chunks
        self.cost += line.cost or 0.0


def _text(line: RunLine, priced: bool) -> str:
    if line.unreadable:
        return f"{line.run_id}: the record cannot be read; featurestore verify names it"[:80]
    engine = line.engine
    for name, short in _SHORT.items():
        engine = engine.replace(name, short)
    cells = (
        line.started[:16].replace("T", " "),
        seconds_text(line.seconds),
        compact(line.images),
        compact(line.images_per_second),
        compact(line.quarantined),
        compact(line.dead_chunks),
        "-" if line.retries is None else compact(line.retries),
        compact(line.workers) if line.workers else "-",
        compact(line.cost or 0.0, 2 if (line.cost or 0.0) < 99.995 else 0),
        engine if len(engine) <= 15 else "several",
    )
    return _row(cells, priced)


def _row(cells: Iterable[str], priced: bool) -> str:
    """Lays out a line; leaves out the cost when there is no price."""
    shown = []
    for cell, (name, width) in zip(cells, _COLUMNS.items(), strict=True):
        if name == "cost" and not priced:
            continue
        shown.append(f"{cell:<16}" if name == "started (UTC)" else f"{cell:>{width}}")
    return " ".join(shown).rstrip()
