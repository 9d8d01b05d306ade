"""Extracts the features of images into a feature store, once.

    python -m pipelines.extract --runner=DirectRunner
    python -m pipelines.extract --input photos --output features --model MobileNetV2 --pooling avg

Without --input it runs on a built-in sample of handwritten digits. To resume an interrupted run,
give the same command again. Flags that are not listed here go to Apache Beam, such as --runner,
--direct_num_workers or --region.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from classifier.inputs.formats.tfds import named_split
from classifier.recipes.arguments import HELP, METAVAR, with_recipe
from featurestore.cli.command import Parser, main, quiet_libraries, say
from featurestore.cli.streams import say_unless
from featurestore.ignored import note_lines
from featurestore.taps import rows_text
from pipelines.beam.loading import load_beam
from pipelines.deriver import derive
from pipelines.driver import SAMPLE_FOLDER, Say, extract
from pipelines.finishing.detached import Submitted
from pipelines.finishing.timereport import time_lines
from pipelines.finishing.verdict import Outcome
from pipelines.flags import BEAM_HELP, GROUPS, add_flags, extract_options
from pipelines.options import ExtractOptions

KEPT = "the chunks that were committed stay in the store; the same command goes on from there"


def build_parser() -> Parser:
    """Returns the command's parser; Beam's flags are left over by it."""
    parser = Parser(prog="python -m pipelines.extract", description=__doc__, epilog=BEAM_HELP)
    for title, flags in GROUPS.items():
        group = parser.add_argument_group(title)
        add_flags(group.add_argument, flags)
    group.add_argument("--recipe", metavar=METAVAR, help=HELP)
    group.add_argument("--json", action="store_true", help="print the summary as JSON only")
    return parser


def parse_options(argv: Sequence[str]) -> tuple[ExtractOptions, bool]:
    """Turns arguments into checked options.

    Returns:
      (options, whether to print JSON).

    Raises:
      UsageError: for a bad value, or for an unknown flag, with the nearest known one.
    """
    parser = build_parser()
    with with_recipe("extract", parser, argv) as arguments:
        args, rest = parser.parse_known_args(arguments)
        if not rest:
            return extract_options(args, ()), args.json
        # Imported only where needed: Beam takes a second.
        load_beam(rest)
        from pipelines.beam.options import check_beam_arguments, refuse_local

        options = extract_options(args, check_beam_arguments(parser, rest))
    places: dict[str, Sequence[str]] = {
        "input": [named_split(uri)[1] for uri in options.inputs] or [SAMPLE_FOLDER]
    }
    if options.input_store:
        places = {"input_store": (options.input_store,)}
    refuse_local(options.beam_arguments, output=(options.output,), **places)
    return options, args.json


def summary_lines(outcome: Outcome) -> list[str]:
    """Returns the lines of a run's record for a person."""
    record, ledger = outcome.record, outcome.record["ledger"]
    augmented = f" and {record['augmented']:,} augmented" if record["augmented"] else ""
    lines = [
        f"{ledger['rows']:,} rows{augmented} of {rows_text(outcome.store.spec)} in "
        f"{record['seconds']:.1f} s, "
        f"{record['images_per_second']:,.1f} images/s with start-up",
        f"ledger: {ledger['images_in']:,} images in = {ledger['rows']:,} rows + "
        f"{ledger['quarantined']:,} quarantined + {ledger['dead_images']:,} in dead chunks; "
        f"{ledger['duplicates']:,} duplicates, {ledger['ignored']:,} other files ignored",
    ]
    kinds = record["quarantined_by_kind"]
    if kinds:
        lines.append("quarantined: " + ", ".join(f"{kind} {n:,}" for kind, n in kinds.items()))
    if record["ignored"]:
        shown = ", ".join(record["ignored"][:3])
        more = ", ..." if len(record["ignored"]) > 3 else ""
        lines.append(f"ignored: {shown}{more} (all in summary.json)")
    if unmarked := record["unmarked"]:
        lines.append(
            f"kept: {unmarked:,} files of parts/ and quarantine/, although markers/ is empty and "
            "nothing describes them; restore markers/ and manifest/ from a backup"
        )
    if "labels" not in record:
        lines.extend(record.get("found", ()))
    lines.extend(f"note: {line}" for line in note_lines(record["notes"]))
    if ledger["images_in"]:
        lines.extend(time_lines(record["time"]))
    total = record["store_ledger"]["rows"]
    lines.append(f"store: {outcome.store.url} ({total:,} rows)")
    return lines


def _plan(options: ExtractOptions, as_json: bool, tell: Say) -> int:
    # Imports TensorFlow.
    from pipelines.estimating.estimate import estimate, plan_lines

    record = estimate(options, tell)
    for line in [json.dumps(record, indent=2)] if as_json else plan_lines(record):
        say(line)
    return 0


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    options, as_json = parse_options(argv)
    tell = say_unless(as_json)
    if options.plan and not options.input_store:
        return _plan(options, as_json, tell)
    run_it = derive if options.input_store else extract
    outcome = run_it(options, tell, not as_json)
    if isinstance(outcome, Submitted):
        record = {"submitted": [asdict(run) for run in outcome.runs]}
        for line in [json.dumps(record, indent=2)] if as_json else outcome.lines:
            say(line)
        return 0
    if as_json:
        say(json.dumps({**outcome.record, "problems": outcome.problems}, indent=2))
    else:
        for line in summary_lines(outcome):
            say(line)
    for problem in outcome.problems:
        say(f"error: {problem}", to_stderr=True)
    return outcome.exit_code


if __name__ == "__main__":
    main(run, kept=KEPT)
