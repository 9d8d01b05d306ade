"""Runs a derivation: another store's rows take the place of images, and no image is read."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from featurestore import layout
from featurestore.cli.logs import event
from featurestore.errors import UsageError
from featurestore.io.places import relation
from featurestore.io.storage import public_url
from featurestore.store import FeatureStore, open_store
from pipelines.beam.job import Job
from pipelines.driver import Say, common_settings, run_pipeline
from pipelines.finishing.page.writing import write_run_page
from pipelines.finishing.record import finish_run
from pipelines.finishing.verdict import Outcome, judge
from pipelines.options import ExtractOptions, Selection, SplitFractions, Upkeep
from pipelines.planning.plan import Plan, write_plan
from pipelines.planning.runfolder import RunFacts, RunFolder
from pipelines.settings import DeriveSettings
from pipelines.watching.lease import lease, new_run_id
from pipelines.watching.timing import Laps

if TYPE_CHECKING:
    from pipelines.deriving.joining import Joined

_LOG = logging.getLogger(__name__)


def derive(options: ExtractOptions, say: Say, show_progress: bool = True) -> Outcome:
    """Derives the features of every new commit of a store.

    Args:
      options: with `input_store`.
      say: shows one line to the user.
      show_progress: whether a terminal shows a progress line.

    Raises:
      UsageError: for a mistake in the options or in either store.
      RunFailed: when the run cannot continue.
    """
    started, laps = time.time(), Laps()
    _refuse_flags_of_images(options)
    _require_apart(options)
    job = replace(Job.of(options), is_detached=False)
    source = _with_maps(open_store(options.input_store, options.storage_options)).at_this_moment()
    laps.lap("listing")
    # These load TensorFlow.
    from pipelines.deriving.joining import join_derived
    from pipelines.deriving.source import Derived

    joined = join_derived(options, source, say)
    store, storage = joined.store, joined.store.storage
    laps.lap("base")
    known = (marker.run_id for marker in store.markers().values())
    facts = RunFacts(
        new_run_id(started, known),
        started,
        inputs=(source.url,),
        workers=job.processes,
        engine=joined.chosen.record,
    )
    with lease(storage, facts.run_id):
        derived = Derived(store, source)
        plan = write_plan(storage, facts.run_id, derived.refs(), derived, lambda listed: 1)
        say(_plan_line(source, plan))
        event(_LOG, "run started", run=facts.run_id, chunks=plan.chunks)
        laps.lap("planning")
        facts = replace(facts, plan=plan, steps=laps.seconds)
        if not plan.chunks:
            finish_run(storage, facts)
        else:
            RunFolder(storage, facts.run_id).write_facts(facts)
            run_pipeline(_settings(joined, source, facts, job), store, facts, show_progress, job)
    record = json.loads(storage.read(layout.run_file(facts.run_id)))
    write_run_page(store, record, options.storage_options, say)
    return judge(open_store(storage.url, storage.options), record, options.limits)


def _settings(joined: Joined, source: FeatureStore, facts: RunFacts, job: Job) -> DeriveSettings:
    """Returns the settings of the workers, and notes which commits of the source they read."""
    from pipelines.deriving.worker import moment_file

    assert source.moment is not None
    joined.store.storage.write(moment_file(facts.run_id), source.moment.to_json())
    return DeriveSettings(
        **common_settings(joined.options, joined.store, facts, job),
        engine=joined.chosen.choice,
        source_url=source.storage.full_url,
        source_tap=source.spec.tap,
        layer=joined.layer,
    )


def _with_maps(source: FeatureStore) -> FeatureStore:
    """Returns a store as one of its maps: of several taps, the only one that was not pooled."""
    taps = source.spec.base.taps
    maps = [tap.name for tap in taps if tap.pooling == "none" and len(tap.shape) > 1]
    if taps and len(maps) != 1:
        raise UsageError(
            f"--input_store: the base goes on from the maps of one layer, and the taps of "
            f"{source.url} hold those of {len(maps)} ({', '.join(maps) or 'all are pooled'}); give "
            "a store of one, or --input"
        )
    return source.tap(maps[0]) if taps else source


def _require_apart(options: ExtractOptions) -> None:
    if relation(options.output, options.input_store, options.storage_options):
        places = f"{public_url(options.output)!r} and {public_url(options.input_store)!r}"
        raise UsageError(
            f"--output and --input_store must lie apart, got {places}; choose another --output"
        )


def _refuse_flags_of_images(options: ExtractOptions) -> None:
    given = {
        "input": bool(options.inputs),
        "labels": bool(options.labels),
        "split_fractions": options.splits != SplitFractions(),
        "limit": options.selection != Selection(),
        "retry, --prune and --dedupe": options.upkeep != Upkeep(),
        "layout": options.reading.layout != "auto",
        "plan": options.plan,
        "no_wait": options.remote.no_wait,
    }
    for name, is_given in given.items():
        if is_given:
            raise UsageError(
                f"--{name}: is for images, and --input_store takes every row of a store as it is, "
                "with its labels and splits; leave it out"
            )


def _plan_line(source: FeatureStore, plan: Plan) -> str:
    done = f", {plan.committed:,} of them derived already" if plan.committed else ""
    what = f"deriving {plan.shards:,}" if plan.shards else "nothing new to derive"
    return f"{source.url}: {plan.listed:,} commits{done}: {what}"
