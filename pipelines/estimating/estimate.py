"""What a run would do and cost, for ``--plan``: counts, a short calibration, hours and bytes.

The base, the plan and a timed chunk of a few images are made as in a run, but in a temporary folder
instead of the store. The output is only read.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from featurestore import layout
from featurestore.decision import read_decision
from featurestore.errors import HoarfrostError
from featurestore.io.storage import Storage, public_url
from featurestore.store import FeatureStore
from featurestore.taps import rows_text
from featurestore.units import size_text
from pipelines.driver import SAMPLE_FOLDER, Say, chunk_sizes, plan_line, splits_line
from pipelines.estimating.trial import RUN_ID, extract_sample, rate, sample_size, take_sample
from pipelines.extraction.worker import Worker
from pipelines.opening.engine import Chosen
from pipelines.opening.existing import existing_store
from pipelines.opening.sample import InputSamples
from pipelines.opening.store import join_store
from pipelines.options import ExtractOptions
from pipelines.planning.digits import write_digits
from pipelines.planning.inventory import Inventory
from pipelines.planning.keyclashes import refuse_key_clashes
from pipelines.planning.listing import Listing
from pipelines.planning.plan import Plan, write_plan
from pipelines.planning.pruning import gone_inputs
from pipelines.settings import WorkerSettings
from pipelines.watching.timing import Laps

ROUND_NUMBER = 1_000_000


def estimate(options: ExtractOptions, say: Say) -> dict[str, Any]:
    """Estimates what a run would do and cost; writes nothing to the output.

    Args:
      options: of the run.
      say: shows one line to the user.

    Returns:
      The estimate, JSON-ready; see docs/operations.md. Without new images it has no calibration.

    Raises:
      UsageError: for the mistakes that the run would refuse.
    """
    laps = Laps()
    with tempfile.TemporaryDirectory(prefix="hoarfrost-plan-") as folder:
        storage = Storage(options.output, options.storage_options)
        scratch = Storage(f"{folder}/store")
        listing = Listing.open(options, options.inputs or (_digits(folder),), say)
        laps.lap("listing")
        joined, chosen = _join(options, storage, scratch, listing, say)
        laps.lap("base")
        existing = existing_store(storage)
        inventory = Inventory.read(existing or joined, options.upkeep.retry)
        plan = write_plan(scratch, RUN_ID, listing.refs, inventory, chunk_sizes(options, joined))
        record = _facts(options, joined, listing, plan)
        if existing:
            refuse_key_clashes(existing, inventory, options.storage_options)
            if options.upkeep.prune:
                gone = gone_inputs(existing, inventory, options.storage_options)
                record["pruned"] = sum(len(some.images) for some in gone)
        for line in listing.found.lines():
            say(line)
        laps.lap("planning")
        record |= _sizes(scratch, plan)
        if line := splits_line(options, plan):
            say(line)
        if plan.chunks:
            record |= _costs(options, scratch, plan, chosen, record["new_shard_bytes"], laps)
        return record


def _digits(folder: str) -> str:
    """Returns the folder of the built-in sample; writes it into `folder` if no run has made it."""
    path = Path(SAMPLE_FOLDER)
    if not path.is_dir():
        path = Path(folder, SAMPLE_FOLDER)
    write_digits(path)
    return str(path)


def _join(
    options: ExtractOptions, storage: Storage, scratch: Storage, listing: Listing, say: Say
) -> tuple[FeatureStore, Chosen]:
    """Returns a store in `scratch` like the one of the run, with the same checks."""
    if existing_store(storage):
        for name in (layout.SPEC, *(f"model/{file.name}" for file in storage.list("model"))):
            scratch.write(name, storage.read(name))
        if decision := read_decision(storage):
            scratch.write(layout.NUMERICS, decision.to_json())
    samples = InputSamples(listing, options.storage_options)
    try:
        store, chosen = join_store(options, scratch, samples, say)
    except HoarfrostError as error:
        raise type(error)(str(error).replace(scratch.public_url, storage.public_url)) from error
    assert chosen is not None
    return store, chosen


def _facts(
    options: ExtractOptions, store: FeatureStore, listing: Listing, plan: Plan
) -> dict[str, Any]:
    spec = store.spec
    return {
        "inputs": [public_url(uri) for uri in options.inputs],
        "listed": plan.listed,
        "already_stored": plan.committed,
        "new_images": plan.images,
        "new_shards": plan.shards,
        "ignored": listing.ignored.count,
        "chunks": plan.chunks,
        "base": spec.base.to_record(),
        "feature_shape": list(spec.feature_shape),
        "dtype": spec.dtype,
        "features": rows_text(spec),
        "views": spec.views,
        "augment": spec.augment,
        "summary": plan_line(plan),
    }


def _sizes(scratch: Storage, plan: Plan) -> dict[str, int]:
    """Adds up the bytes of a plan's images and shards, and counts those that may be stored already.

    A run reads what was moved, touched or is retried, but perhaps computes nothing for it.
    """
    sizes = {"new_image_bytes": 0, "new_shard_bytes": 0, "perhaps_stored": 0}
    for file, _ in plan.files:
        with scratch.open_parquet(file) as rows:
            for batch in rows.iter_batches(columns=["format", "size", "replaces", "known"]):
                is_image = batch["format"].to_numpy(zero_copy_only=False) == "image"
                size = batch["size"].to_numpy()
                sizes["new_image_bytes"] += int(size[is_image].sum())
                sizes["new_shard_bytes"] += int(size[~is_image].sum())
                replaces = np.array([bool(name) for name in batch["replaces"].to_pylist()], bool)
                known = batch["known"].to_numpy(zero_copy_only=False).astype(bool)
                sizes["perhaps_stored"] += int((replaces | known).sum())
    return sizes


def _costs(
    options: ExtractOptions,
    scratch: Storage,
    plan: Plan,
    chosen: Chosen,
    shard_bytes: int,
    laps: Laps,
) -> dict[str, Any]:
    """Times a sample, and extrapolates its time and its size to the input."""
    worker = Worker(
        WorkerSettings(
            scratch.url,
            options.storage_options,
            batch_size=options.chunks.batch_size,
            splits=options.splits,
            trust_model=options.base.trust_model,
            engine=chosen.choice,
        )
    )
    try:
        wanted = sample_size(worker)
        laps.lap("workers")
        sample = take_sample(options, scratch, plan, shard_bytes, wanted)
        marker = extract_sample(worker, sample) if sample.images else None
    finally:
        worker.close()
    start = round(sum(laps.seconds.values()), 3)
    record: dict[str, Any] = {"images": sample.images_in_all, "start_seconds": start}
    if marker is None:
        return record
    # Bytes per image, with all its views.
    rows = marker.ledger.rows
    image_bytes = marker.part_bytes / rows if rows else worker.store.spec.image_bytes
    calibration = rate(marker, sample.read_seconds)
    forecast = [
        {
            "images": images,
            "hours": round((start + images / calibration["images_per_second"]) / 3600, 4),
            "store_bytes": round(images * image_bytes),
        }
        for images in dict.fromkeys((sample.images_in_all, ROUND_NUMBER))
    ]
    return {
        **record,
        "image_bytes": round(image_bytes, 1),
        "calibration": calibration,
        "engine": dict(chosen.record),
        "numerics": dict(marker.numerics),
        "forecast": forecast,
    }


def plan_lines(record: dict[str, Any]) -> list[str]:
    """Returns the lines of an estimate for a person."""
    base = record["base"]
    cut = f"cut at {base['layer']}, pooling {base['pooling']}"
    if "taps" in base:
        cut = f"cut at {len(base['taps'])} layers"
    lines = [
        f"plan: {record['summary']}; nothing was run",
        f"base: {base['model']} ({base['weights']}) {cut}: {record['features']}",
    ]
    if record["views"] > 1:
        lines.append(f"views: {record['views']} per training image: {record['augment']}")
    if record.get("pruned"):
        lines.append(f"{record['pruned']:,} stored images are gone from the input: --prune")
    if "forecast" not in record:
        if record["chunks"]:
            lines.append("no image could be read for a calibration; start the run to see why")
        return lines
    timed = record["calibration"]
    spent = sum(timed["lane_seconds"].values()) or 1.0
    shares = ", ".join(f"{name} {part / spent:.0%}" for name, part in timed["lane_seconds"].items())
    lines.append(
        f"here: {timed['images_per_second']:,.1f} images/s on {timed['lanes']} lanes, measured on "
        f"{timed['images']} images: {shares}"
    )
    for number, forecast in enumerate(record["forecast"]):
        about = "" if number or not record["new_shards"] else "about "
        lines.append(
            f"  {about}{forecast['images']:,} images: {_hours(forecast['hours'])}, "
            f"{size_text(forecast['store_bytes'])} to store"
        )
    if record["perhaps_stored"]:
        lines.append(
            f"at most: {record['perhaps_stored']:,} inputs were moved or are tried again; those "
            "that are stored already are not computed"
        )
    lines.append(f"bound by {timed['bound']}: {timed['advice']}")
    return lines


def _hours(hours: float) -> str:
    if hours >= 1:
        return f"{hours:,.1f} hours"
    return f"{hours * 60:.1f} minutes" if hours * 60 >= 1 else f"{hours * 3600:.0f} seconds"
