"""Runs an extraction: input, base, store, plan, pipeline, verdict."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from classifier.engines import EngineChoice
from classifier.inputs import ImageRef, ShardRef
from classifier.inputs.labels import Labeller
from featurestore import layout
from featurestore.cli.logs import event
from featurestore.io.storage import Storage, public_url
from featurestore.relabel import relabel, summary_lines
from featurestore.store import FeatureStore
from pipelines.beam.run import run_pipeline
from pipelines.finishing.page.writing import write_run_page
from pipelines.finishing.record import RunFacts, finish_run, write_record
from pipelines.finishing.verdict import Outcome, judge
from pipelines.options import ExtractOptions, WorkerSettings
from pipelines.planning.inventory import Inventory
from pipelines.planning.keyclashes import refuse_key_clashes
from pipelines.planning.listing import Listing
from pipelines.planning.plan import Plan, chunk_size, write_plan
from pipelines.planning.pruning import gone_inputs, prune
from pipelines.watching.lease import lease, new_run_id
from pipelines.watching.progress import Monitor, driver_folder
from pipelines.watching.timing import Laps

SAMPLE_FOLDER = "hoarfrost-digits"
Say = Callable[[str], None]
_LOG = logging.getLogger(__name__)


def extract(options: ExtractOptions, say: Say, show_progress: bool = True) -> Outcome:
    """Extracts the features of every new image of the input into the store.

    Args:
      options: what to do.
      say: shows one line to the user.
      show_progress: whether a terminal shows a progress line.

    Returns:
      The outcome; everything in it is on disk too.

    Raises:
      UsageError: for a mistake in the options, the input or the store.
      RunFailed: when the run cannot continue.
    """
    started, laps = time.time(), Laps()
    inputs = options.inputs or (_sample(say),)
    listing = Listing.open(options, inputs, say)
    laps.lap("listing")
    storage = Storage(options.output, options.storage_options)
    # Loads TensorFlow: mistakes in the flags and in the input are reported before, at once.
    from pipelines.opening.store import join_store

    store, chosen = join_store(options, storage, listing, say)
    laps.lap("base")
    run_id = new_run_id(started, (marker.run_id for marker in store.markers().values()))
    with lease(storage, run_id):
        plan = _plan(options, store, run_id, listing.refs, say)
        for line in listing.found.lines():
            say(line)
        laps.lap("planning")
        event(_LOG, "run started", run=run_id, images=plan.images, chunks=plan.chunks)
        facts = RunFacts(
            run_id=run_id,
            started=started,
            plan=plan,
            inputs=tuple(public_url(uri) for uri in inputs),
            ignored=listing.ignored.count,
            ignored_names=tuple(listing.ignored.names),
            steps=laps.seconds,
            engine=chosen.record,
        )
        if plan.chunks:
            _run_pipeline(options, store, facts, show_progress, chosen.choice)
        else:
            finish_run(storage, facts, [], [])
    record = json.loads(storage.read(layout.run_file(run_id)))
    if listing.labeller:
        record = _relabel(store, record, listing.labeller, say)
    event(_LOG, "run finished", run=run_id, seconds=record["seconds"], **record["ledger"])
    write_run_page(store, record, options.storage_options, say)
    return judge(store, record, options.limits)


def _plan(
    options: ExtractOptions,
    store: FeatureStore,
    run_id: str,
    refs: Iterable[ImageRef | ShardRef],
    say: Say,
) -> Plan:
    """Plans what is new, and prunes what is gone from the input."""
    inventory = Inventory.read(store, options.upkeep.retry)
    plan = write_plan(store.storage, run_id, refs, inventory, chunk_sizes(options, store))
    refuse_key_clashes(store, inventory, options.storage_options)
    if options.upkeep.prune:
        pruned = prune(store, run_id, gone_inputs(store, inventory, options.storage_options))
        say(f"{pruned:,} stored images are no longer in the input; their rows were dropped")
    say(plan_line(plan))
    if line := splits_line(options, plan):
        say(line)
    return plan


def chunk_sizes(options: ExtractOptions, store: FeatureStore) -> Callable[[int], int]:
    """Returns a function from the number of listed inputs to the images per chunk."""
    return partial(chunk_size, options.chunks.chunk_size, store.spec.image_bytes)


def _relabel(
    store: FeatureStore, record: dict[str, Any], labeller: Labeller, say: Say
) -> dict[str, Any]:
    """Labels the rows of earlier runs and of shards, as a label version; adds it to the record."""
    done = relabel(store, labeller)
    record = {**record, "labels": asdict(done)}
    write_record(store.storage, record)
    for line in summary_lines(done):
        say(line)
    return record


def _sample(say: Say) -> str:
    from pipelines.planning.digits import write_digits

    count = write_digits(Path(SAMPLE_FOLDER))
    say(f"no --input given: using the built-in sample, {count:,} digits in ./{SAMPLE_FOLDER}")
    return SAMPLE_FOLDER


def plan_line(plan: Plan) -> str:
    """Returns a line about what a plan holds."""
    found = f"{plan.listed:,} inputs"
    if plan.repeated:
        found += f", {plan.repeated:,} of them listed twice"
    if plan.committed:
        found += f", {plan.committed:,} of them stored already"
    if not plan.chunks:
        return f"{found}: nothing new to extract"
    what = f"{plan.images:,} images" if plan.images else ""
    if plan.shards:
        what += (" and " if what else "") + f"{plan.shards:,} shards"
    return f"{found}: extracting {what} in {plan.chunks:,} chunks"


def splits_line(options: ExtractOptions, plan: Plan) -> str:
    """Returns a line about the inputs that ``--split_fractions`` leaves alone; "" for none."""
    if not options.splits.shares:
        return ""
    others = []
    if plan.with_split:
        new = plan.images + plan.shards
        others.append(
            f"{plan.with_split:,} of {new:,} new inputs, whose folder, list or name has one"
        )
    if plan.shards:
        others.append("images of shards whose record has one")
    if plan.committed:
        others.append(f"{plan.committed:,} stored inputs, which keep what they have")
    return f"--split_fractions does not give the split of {'; of '.join(others)}" if others else ""


def _run_pipeline(
    options: ExtractOptions,
    store: FeatureStore,
    facts: RunFacts,
    show_progress: bool,
    engine: EngineChoice,
) -> None:
    from pipelines.beam import options as beam_options
    from pipelines.beam.transforms import ExtractFeatures

    plan = facts.plan
    pipeline_options = beam_options.make_options(options.beam_arguments)
    local = beam_options.runs_here(pipeline_options)
    before = len(store.storage.list("markers"))
    with driver_folder() as folder:
        settings = WorkerSettings(
            store_url=store.url if store.storage.is_local else store.storage.url,
            storage_options=options.storage_options,
            run_id=facts.run_id,
            batch_size=options.chunks.batch_size,
            processes=beam_options.process_count(pipeline_options),
            splits=options.splits,
            progress_folder=str(folder) if local else "",
            trust_model=options.base.trust_model,
            dedupe=options.upkeep.dedupe,
            engine=engine,
            watching=options.watching,
        )
        counted = replace(facts, workers=settings.processes)
        total = 0 if plan.shards else plan.images
        remote = None if local else lambda: len(store.storage.list("markers")) - before
        progress = Monitor(folder, total, remote, plan.chunks) if show_progress else nullcontext()
        with progress:
            run_pipeline(
                pipeline_options,
                lambda pipeline: pipeline | ExtractFeatures(settings, counted),
                "what was committed stays; give the same command again to go on from there",
            )
