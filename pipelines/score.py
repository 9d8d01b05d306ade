"""Scores a whole store, or new images, with heads of a training run; keeps no features.

    python -m pipelines.score --run run --store hoarfrost-store --output scores
    python -m pipelines.score --run run --input photos --output scores --head_id linear ridge

The scores are Parquet files below --output/parts, one row per image with the most probable classes
of each head. To resume an interrupted command, give it again. Flags that are not listed here go to
Apache Beam, such as --runner or --direct_num_workers.
"""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from classifier.inputs import Ignored, ImageRef, ShardRef
from classifier.inputs.found import Found
from classifier.judgement.evaluation import require_same_features
from classifier.runs.run import Run, dump_json, load_run
from featurestore import FeatureStore, UsageError, open_store
from featurestore import layout as store_layout
from featurestore.cli.command import Parser, main, quiet_libraries, say
from featurestore.cli.streams import say_unless
from featurestore.io.places import relation
from featurestore.io.storage import Storage
from featurestore.io.urls import public_url
from pipelines.beam.job import Job
from pipelines.beam.loading import load_beam
from pipelines.driver import Say, common_settings, planned, run_pipeline
from pipelines.extraction.commits import commit_ref
from pipelines.finishing.record import finish_run, write_record
from pipelines.finishing.verdict import Outcome, judge
from pipelines.flags import BEAM_HELP, add_flags, extract_options
from pipelines.options import ExtractOptions
from pipelines.planning.listing import Listing
from pipelines.planning.runfolder import RunFacts, RunFolder
from pipelines.scoring.spec import ScoreSpec, join_scores, keep_moment, open_scores
from pipelines.settings import ScoreSettings
from pipelines.watching.lease import lease, new_run_id
from pipelines.watching.timing import Laps

KEPT = "the chunks that were committed stay in --output; the same command goes on from there"
FLAGS = (
    "input", "storage_options", "layout", "labels", "key_column", "label_column", "image_column",
    "label_from_name", "limit", "limit_per_class", "engine", "precision", "trust_model",
    "batch_size", "chunk_size", "max_bad_fraction", "allow_dead_chunks", "retry",
    "metrics_folder",
)  # fmt: skip


def build_parser() -> Parser:
    """Returns the command's parser, which leaves Beam's flags unparsed."""
    parser = Parser(prog="python -m pipelines.score", description=__doc__, epilog=BEAM_HELP)
    add = parser.add_argument
    add("--run", required=True, help="folder of the training run")
    add("--store", default="", help="feature store whose rows are scored, instead of --input")
    add("--output", required=True, metavar="SCORES", help="folder or URL of the scores")
    add("--head_id", nargs="+", action="extend", default=[], metavar="HEAD",
        help="heads to use (default: the first of the leaderboard)")  # fmt: skip
    add("--top", type=int, default=5, help="classes per image and head (default %(default)s)")
    add("--logits", action="store_true", help="keep the logits of all classes too")
    add_flags(add, FLAGS)
    add("--json", action="store_true", help="print the summary as JSON and nothing else")
    parser.set_defaults(seed=0)
    return parser


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    if bool(args.store) == bool(args.input):
        raise UsageError("give --store, whose rows are scored, or --input with images; not both")
    if args.top < 1:
        raise UsageError(f"--top must be at least 1, got {args.top}")
    options = extract_options(args, _beam_arguments(parser, args, rest))
    outcome = score(args, options, say_unless(args.json), not args.json)
    if args.json:
        say(json.dumps({**outcome.record, "problems": outcome.problems}, indent=2))
    for problem in outcome.problems:
        say(f"error: {problem}", to_stderr=True)
    return outcome.exit_code


def _beam_arguments(parser: Parser, args: Namespace, rest: Sequence[str]) -> tuple[str, ...]:
    if not rest:
        return ()
    # Imported only if needed, as importing Beam takes a second.
    load_beam(rest)
    from pipelines.beam.options import check_beam_arguments, refuse_local

    beam = check_beam_arguments(parser, rest)
    places = {"input": args.input, "store": [args.store] if args.store else []}
    refuse_local(beam, run=[args.run], output=[args.output], **places)
    return beam


def score(args: Namespace, options: ExtractOptions, say: Say, show_progress: bool) -> Outcome:
    """Scores what is new, as an extraction extracts it.

    Args:
      args: the command's own flags.
      options: the flags that it shares with an extraction.
      say: shows one line to the user.
      show_progress: whether a terminal shows a progress line.

    Raises:
      UsageError: for a mistake in the flags, the input, the run or the store.
      RunFailed: when the run cannot continue.
    """
    started, laps = time.time(), Laps()
    # The record of a run is judged here, so the command waits wherever it is started.
    job = replace(Job.of(options), is_detached=False)
    trained = load_run(args.run, options.storage_options)
    source = _source(args.store, trained, options)
    heads = [trained.head_id(name) for name in dict.fromkeys(args.head_id)]
    spec = ScoreSpec.of(trained, heads or [trained.head_id()], args.top, args.logits, source)
    storage = Storage(options.output, options.storage_options)
    _require_apart(options, args.run, args.store)
    listing = _commits(source) if source else Listing.open(options, options.inputs, say)
    laps.lap("listing")
    scores = join_scores(storage, spec)
    if source:
        keep_moment(storage, source)
    run_id = new_run_id(started, (marker.run_id for marker in scores.markers().values()))
    inputs = tuple(map(public_url, options.inputs)) or (args.store,)
    facts = RunFacts(run_id, started, inputs=inputs, workers=job.processes)
    with lease(storage, run_id):
        facts = planned(options, scores, facts, listing, say, "score")
        laps.lap("planning")
        facts = replace(facts, steps=laps.seconds)
        if not facts.plan.chunks:
            finish_run(storage, facts, open_scores)
        else:
            RunFolder(storage, run_id).write_facts(facts)
            settings = ScoreSettings(
                **common_settings(options, scores, facts, job),
                run_url=trained.storage.full_url,
                source_url=source.storage.full_url if source else "",
            )
            run_pipeline(settings, scores, facts, show_progress, job)
    return _judged(options, scores, run_id, trained, spec, say)


def _require_apart(options: ExtractOptions, *places: str) -> None:
    for place in filter(None, places):
        if relation(options.output, place, options.storage_options):
            raise UsageError(
                f"--output: {public_url(options.output)!r} and {public_url(place)!r} must lie "
                "apart; choose another folder for the scores"
            )


def _source(url: str, trained: Run, options: ExtractOptions) -> FeatureStore | None:
    if not url:
        return None
    source = open_store(url, options.storage_options).tap_of(trained.spec.base).at_this_moment()
    require_same_features(trained, source)
    return source


def _commits(source: FeatureStore) -> Listing:
    """Lists the commits of a store that have rows."""

    def refs() -> Iterator[ImageRef | ShardRef]:
        return (commit_ref(source, m) for m in source.markers().values() if m.part)

    return Listing((), refs(), Ignored(), Found(), None, refs)


def _judged(
    options: ExtractOptions,
    scores: FeatureStore,
    run_id: str,
    trained: Run,
    spec: ScoreSpec,
    say: Say,
) -> Outcome:
    """Adds the drift to the run's record, and shows and judges it."""
    from pipelines.scoring.drift import drift_lines, drift_record

    record: dict[str, Any] = json.loads(scores.storage.read(store_layout.run_file(run_id)))
    drift = drift_record(scores, trained, spec)
    record |= {"run": trained.url, "heads": list(spec.heads), "drift": drift}
    record = json.loads(dump_json(record))
    write_record(scores.storage, record)
    ledger = record["ledger"]
    say(
        f"{ledger['rows']:,} images scored by {', '.join(spec.heads)} in {record['seconds']:.1f} "
        f"s, {record['images_per_second']:,.1f} images/s with start-up"
    )
    say(
        f"ledger: {ledger['images_in']:,} images in = {ledger['rows']:,} rows + "
        f"{ledger['quarantined']:,} quarantined + {ledger['dead_images']:,} in dead chunks"
    )
    for line in drift_lines(drift):
        say(line)
    total = record["store_ledger"]["rows"]
    say(f"scores: {scores.url} ({total:,} rows in {scores.url}/parts/*.parquet)")
    return judge(scores, record, options.limits)


if __name__ == "__main__":
    main(run, kept=KEPT)
