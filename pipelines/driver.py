"""Runs an extraction: input, base, store, plan, pipeline, verdict."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifier.inputs.formats.tfds import public_input
from classifier.inputs.labels import Labeller
from featurestore import layout
from featurestore.cli.logs import event
from featurestore.commit import commit_count
from featurestore.io.storage import Storage
from featurestore.relabel import relabel, summary_lines
from featurestore.store import FeatureStore, open_store
from pipelines.beam.job import Job
from pipelines.finishing.detached import Submitted, detached_runs, still_running
from pipelines.finishing.page.writing import write_run_page
from pipelines.finishing.record import finish_run, write_record
from pipelines.finishing.verdict import Outcome, judge
from pipelines.opening.existing import existing_store
from pipelines.opening.sample import InputSamples
from pipelines.options import ExtractOptions
from pipelines.planning.chunks import chunk_size
from pipelines.planning.inventory import Inventory
from pipelines.planning.keyclashes import refuse_key_clashes
from pipelines.planning.listing import Listing
from pipelines.planning.plan import Plan, write_plan
from pipelines.planning.pruning import gone_inputs, prune
from pipelines.planning.runfolder import RunFacts, RunFolder
from pipelines.settings import WorkerSettings
from pipelines.watching.lease import lease, new_run_id
from pipelines.watching.progress import Monitor, driver_folder
from pipelines.watching.timing import Laps

if TYPE_CHECKING:
    from pipelines.opening.engine import Chosen

SAMPLE_FOLDER = "hoarfrost-digits"
Say = Callable[[str], None]
_LOG = logging.getLogger(__name__)


def extract(options: ExtractOptions, say: Say, show_progress: bool = True) -> Outcome | Submitted:
    """Extracts the features of every new image of the input into the store.

    Args:
      options: what to do.
      say: shows one line to the user.
      show_progress: whether a terminal shows a progress line.

    Returns:
      The outcome, or the job that goes on without this command; everything in it is on disk too.

    Raises:
      UsageError: for a mistake in the options, the input or the store.
      RunFailed: when the run cannot continue.
    """
    started, laps = time.time(), Laps()
    job = Job.of(options)
    storage = Storage(options.output, options.storage_options)
    existing = existing_store(storage)
    if existing and (left := still_running(existing, options.remote.resubmit, say)):
        return left
    listing = Listing.open(options, inputs := options.inputs or (builtin_sample(say),), say)
    laps.lap("listing")
    # Loads TensorFlow: mistakes in the flags and in the input are reported before, at once.
    from pipelines.opening.store import join_store

    samples = InputSamples(listing, options.storage_options)
    store, chosen = join_store(options, storage, samples, say, not job.is_here)
    laps.lap("base")
    # A large store takes a while to read, so it is read once.
    before = store.at_this_moment()
    run_id = new_run_id(started, (marker.run_id for marker in before.markers().values()))
    publics = tuple(map(public_input, inputs))
    facts = RunFacts(run_id, started, inputs=publics, **_choices(job, chosen))
    with lease(storage, run_id) as held:
        facts = planned(options, before, facts, listing, say)
        laps.lap("planning")
        facts = replace(facts, steps=laps.seconds)
        if not facts.plan.chunks:
            finish_run(storage, facts)
        else:
            RunFolder(storage, run_id).write_facts(facts)
            common = common_settings(options, store, facts, job)
            engine, dedupe = chosen.choice if chosen else None, options.upkeep.dedupe
            settings = WorkerSettings(**common, splits=options.splits, dedupe=dedupe, engine=engine)
            run_pipeline(settings, store, facts, show_progress, job)
            if job.is_detached:
                held.is_left = True
                return Submitted(tuple(detached_runs(store)))
    return _judged(options, open_store(storage.url, storage.options), run_id, listing, say)


def _choices(job: Job, chosen: Chosen | None) -> dict[str, Any]:
    """Returns the facts of a run that its flags and this machine decide."""
    engine = chosen.record if chosen else {}
    return {"workers": job.processes, "engine": engine, "detached": job.is_detached}


def _judged(
    options: ExtractOptions, store: FeatureStore, run_id: str, listing: Listing, say: Say
) -> Outcome:
    """Labels the rows of earlier runs and of shards, and judges the run by its record."""
    record = json.loads(store.storage.read(layout.run_file(run_id)))
    if listing.labeller:
        record = _relabel(store, record, listing.labeller, say)
    event(_LOG, "run finished", run=run_id, seconds=record["seconds"], **record["ledger"])
    write_run_page(store, record, options.storage_options, say)
    return judge(store, record, options.limits)


def planned(
    options: ExtractOptions,
    store: FeatureStore,
    facts: RunFacts,
    listing: Listing,
    say: Say,
    verb: str = "extract",
) -> RunFacts:
    """Plans what is new, and prunes what is gone from the input; adds the plan to the facts."""
    run_id = facts.run_id
    inventory = Inventory.read(store, options.upkeep.retry)
    sizes = chunk_sizes(options, store)
    plan = write_plan(store.storage, run_id, listing.refs, inventory, sizes)
    refuse_key_clashes(store, inventory, options.storage_options)
    if options.upkeep.prune:
        pruned = prune(store, run_id, gone_inputs(store, inventory, options.storage_options))
        say(f"{pruned:,} stored images are no longer in the input; their rows were dropped")
    say(plan_line(plan, verb))
    if plan.chunks and facts.workers > 1:
        say(f"{facts.workers} processes share the cores; --direct_num_workers=1 takes one")
    if line := splits_line(options, plan):
        say(line)
    for line in listing.found.lines():
        say(line)
    event(_LOG, "run started", run=run_id, images=plan.images, chunks=plan.chunks)
    names = tuple(listing.ignored.names)
    return replace(facts, plan=plan, ignored=listing.ignored.count, ignored_names=names)


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


def builtin_sample(say: Say) -> str:
    """Writes the built-in digits into the working folder; returns their address."""
    from pipelines.planning.digits import write_digits

    count = write_digits(Path(SAMPLE_FOLDER))
    say(f"no --input given: using the built-in sample, {count:,} digits in ./{SAMPLE_FOLDER}")
    return SAMPLE_FOLDER


def plan_line(plan: Plan, verb: str = "extract") -> str:
    """Returns a line about what a plan holds; `verb` says what is done with it."""
    found = f"{plan.listed:,} inputs"
    if plan.repeated:
        found += f", {plan.repeated:,} of them listed twice"
    if plan.committed:
        found += f", {plan.committed:,} of them stored already"
    if not plan.chunks:
        return f"{found}: nothing new to {verb}"
    what = f"{plan.images:,} images" if plan.images else ""
    if plan.shards:
        what += (" and " if what else "") + f"{plan.shards:,} shards"
    return f"{found}: {verb.removesuffix('e')}ing {what} in {plan.chunks:,} chunks"


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


def common_settings(
    options: ExtractOptions, store: FeatureStore, facts: RunFacts, job: Job
) -> dict[str, Any]:
    """Returns the fields of `WorkerSettings` that every kind of run has."""
    storage = store.storage
    return {
        "store_url": store.url if storage.is_local else storage.url,
        "storage_options": options.storage_options,
        "run_id": facts.run_id,
        "batch_size": options.chunks.batch_size,
        "processes": job.processes,
        "trust_model": options.base.trust_model,
        "asked": options.engine,
        "watching": options.watching,
    }


def run_pipeline(
    settings: WorkerSettings, store: FeatureStore, facts: RunFacts, show_progress: bool, job: Job
) -> None:
    """Runs the pipeline to its end, or submits it.

    Args:
      settings: for the workers.
      store: gets the rows.
      facts: of the run.
      show_progress: whether a terminal shows a progress line.
      job: how the pipeline is run.
    """
    plan, storage = facts.plan, store.storage
    before = commit_count(storage)
    with driver_folder() as folder:
        if job.is_here:
            settings = replace(settings, progress_folder=str(folder))
        total = 0 if plan.shards else plan.images
        remote = None if job.is_here else lambda: commit_count(storage) - before
        shown = show_progress and not facts.detached
        with Monitor(folder, total, remote, plan.chunks) if shown else nullcontext():
            job.run(settings, plan.chunks)
