"""Drives an extraction: input, base, store, plan, pipeline, verdict."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from classifier.inputs import Ignored, ImageRef, ShardRef, list_inputs
from classifier.inputs.labels import Labeller
from featurestore import layout
from featurestore.errors import UsageError
from featurestore.relabel import relabel, summary_lines
from featurestore.storage import Storage, public_url
from featurestore.store import FeatureStore
from pipelines.finish import RunFacts, finish_run, write_record
from pipelines.inventory import Inventory, gone_inputs, require_moved
from pipelines.lease import lease, new_run_id
from pipelines.options import ExtractOptions, WorkerSettings
from pipelines.outcome import Outcome, judge
from pipelines.plan import Plan, chunk_size, select, write_plan
from pipelines.progress import Monitor, driver_folder
from pipelines.running import run_pipeline
from pipelines.settle import prune

SAMPLE_FOLDER = "hoarfrost-digits"
Say = Callable[[str], None]


def extract(options: ExtractOptions, say: Say, show_progress: bool = True) -> Outcome:
    """Extracts the features of every new image of the input into the store.

    Args:
      options: what to do.
      say: shows one line to the user.
      show_progress: whether a terminal shows a line that moves.

    Returns:
      The outcome; everything in it is on disk too.

    Raises:
      UsageError: for a mistake in the options, the input or the store.
      RunFailed: when the run cannot go on.
    """
    started = time.time()
    inputs = options.inputs or (_sample(say),)
    ignored = Ignored()
    labeller = options.labels.labeller(options.storage_options) if options.labels else None
    refs = _select(options, inputs, ignored, labeller)
    head = list(itertools.islice(refs, 64))
    _check_head(options, inputs, head, ignored)
    storage = Storage(options.output, options.storage_options)
    # TensorFlow is loaded only now: mistakes in the flags and the input are answered at once.
    from pipelines.joining import join_store

    store = join_store(options, storage, head, say)
    run_id = new_run_id(started, (marker.run_id for marker in store.markers().values()))
    with lease(storage, run_id):
        plan = _plan(options, store, run_id, itertools.chain(head, refs), say)
        facts = RunFacts(
            run_id=run_id,
            started=started,
            inputs=tuple(public_url(uri) for uri in inputs),
            listed=plan.listed,
            committed=plan.committed,
            planned_images=plan.images,
            ignored=ignored.count,
            ignored_names=tuple(ignored.names),
        )
        if plan.chunks:
            _run_pipeline(options, store, plan, facts, show_progress)
        else:
            finish_run(storage, facts, [], [])
    record = json.loads(storage.read(layout.run_file(run_id)))
    if labeller:
        record = _relabel(store, record, labeller, say)
    return judge(store, record, options.limits)


def _select(
    options: ExtractOptions, inputs: Sequence[str], ignored: Ignored, labeller: Labeller | None
) -> Iterator[ImageRef | ShardRef]:
    """Lists the inputs with their labels, up to the limits."""
    listed = list_inputs(inputs, options.reading, ignored)
    if labeller:
        listed = (labeller.apply(r) if isinstance(r, ImageRef) else r for r in listed)
    return select(listed, options.selection)


def _check_head(
    options: ExtractOptions,
    inputs: Sequence[str],
    head: Sequence[ImageRef | ShardRef],
    ignored: Ignored,
) -> None:
    """Refuses an empty input, and limits that cannot be kept."""
    if not head:
        raise UsageError(_nothing_found(inputs, ignored))
    limited = options.selection.limit or options.selection.limit_per_class
    if limited and any(isinstance(ref, ShardRef) for ref in head):
        raise UsageError(
            "--limit and --limit_per_class count images, and those of a shard are known only when "
            "it has been read; name fewer shards, or unpack them with python -m pipelines.pack"
        )


def _plan(
    options: ExtractOptions,
    store: FeatureStore,
    run_id: str,
    refs: Iterable[ImageRef | ShardRef],
    say: Say,
) -> Plan:
    """Plans what is new, and prunes what is gone."""
    inventory = Inventory.read(store, options.upkeep.retry)
    sizes = partial(chunk_size, options.chunks.chunk_size, store.spec.feature_bytes)
    plan = write_plan(store.storage, run_id, refs, inventory, sizes)
    require_moved(store, inventory, options.storage_options)
    if options.upkeep.prune:
        pruned = prune(store, run_id, gone_inputs(store, inventory))
        say(f"{pruned:,} stored images are no longer in the input; they count no more")
    say(_plan_line(plan))
    return plan


def _relabel(
    store: FeatureStore, record: dict[str, Any], labeller: Labeller, say: Say
) -> dict[str, Any]:
    """Gives rows of earlier runs and of shards their labels, as a version; adds to the record."""
    done = relabel(store, labeller)
    record = {**record, "labels": done.to_record()}
    write_record(store.storage, record)
    for line in summary_lines(done):
        say(line)
    return record


def _sample(say: Say) -> str:
    from pipelines.sample import write_digits

    count = write_digits(Path(SAMPLE_FOLDER))
    say(f"no --input given: using the built-in sample, {count:,} digits in ./{SAMPLE_FOLDER}")
    return SAMPLE_FOLDER


def _nothing_found(inputs: Sequence[str], ignored: Ignored) -> str:
    where = ", ".join(repr(public_url(uri)) for uri in inputs)
    if not ignored.count:
        return f"--input: {where} is empty; give a folder of images or *.tar shards"
    return (
        f"--input: no images in {where}; {ignored.count} other files are there, such as "
        f"{ignored.names[0]!r}"
    )


def _plan_line(plan: Plan) -> str:
    found = f"{plan.listed:,} inputs"
    if plan.committed:
        found += f", {plan.committed:,} of them stored already"
    if not plan.chunks:
        return f"{found}: nothing new to extract"
    what = f"{plan.images:,} images" if plan.images else ""
    if plan.shards:
        what += (" and " if what else "") + f"{plan.shards:,} shards"
    return f"{found}: extracting {what} in {plan.chunks:,} chunks"


def _run_pipeline(
    options: ExtractOptions,
    store: FeatureStore,
    plan: Plan,
    facts: RunFacts,
    show_progress: bool,
) -> None:
    from pipelines import beam_options
    from pipelines.transforms import ExtractFeatures

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
        )
        total = 0 if plan.shards else plan.images
        remote = None if local else lambda: len(store.storage.list("markers")) - before
        progress = Monitor(folder, total, remote, plan.chunks) if show_progress else nullcontext()
        with progress:
            run_pipeline(
                pipeline_options,
                lambda pipeline: pipeline | ExtractFeatures(settings, plan, facts),
                "what was committed stays, the same command goes on from there",
            )
