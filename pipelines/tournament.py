"""Compares bases on a sample of your images: which is accurate, and what would each cost?

    python -m pipelines.tournament --input photos --models MobileNetV2,VGG16,VGG16:block4_pool \\
        --output tournament

Every base gets the same images. Its pooled features are stored, exact heads are fitted on them, and
the best one is judged on the images that it was not trained on. Differences between bases are taken
in pairs. Every command is printed before it runs; all stores and runs are kept, and the same
command goes on where it was interrupted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from classifier.judgement.ranking import Contender, cheapest, ranked
from classifier.reporting.frame import page_or_note
from featurestore.cli.command import Parser, main, quiet_libraries, say
from featurestore.cli.streams import say_unless
from featurestore.errors import RunFailed, UsageError, one_line
from featurestore.io.storage import Storage
from pipelines.driver import builtin_sample
from pipelines.execution import Execute, StepFailed, in_process_of_its_own, run_steps
from pipelines.ranking.entrants import Entrant, entrants_of, sampled
from pipelines.ranking.page import page_of
from pipelines.ranking.standings import COST, judged, standing_lines
from pipelines.steps import add_step_flags, say_plan

KEPT = "finished steps stay in --output; give the same command again"
SAMPLE = 2000
RECORD, PAGE = "tournament.json", "tournament.html"


def build_parser() -> Parser:
    """Returns the command's parser."""
    parser = Parser(prog="python -m pipelines.tournament", description=__doc__)
    add = parser.add_argument
    text = "bases between commas, as for --model of pipelines.extract, or MODEL:LAYER[:POOLING]"
    add("--models", required=True, metavar="A,B:LAYER", help=text)
    text = "images at most, evenly from all splits and classes; 0 for all (default %(default)s)"
    add("--sample", type=int, default=SAMPLE, metavar="N", help=text)
    changes = "flags for every base, such as extract.image_size=96 train.head=ridge"
    add_step_flags(parser, "folder of the stores, runs and the page", changes)
    return parser


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    args = build_parser().parse_args(argv)
    if args.sample < 0:
        raise UsageError(f"--sample must be 0 or more images, got {args.sample}")
    tell = say_unless(args.json)
    output = args.output.rstrip("/")
    # Every mistake in a flag is found before the input is listed.
    entrants = entrants_of(args.models, args.input, output, args.set)
    if per_class := sampled(entrants[0], args.input or [builtin_sample(tell)], args.sample):
        tell(f"sample: {per_class:,} images of each split and class at most")
        entrants = entrants_of(args.models, args.input, output, args.set, per_class)
    if args.plan:
        say_plan([step for entrant in entrants for step in entrant.steps], args.json)
        return 0
    # What the steps print is not the summary.
    execute = partial(in_process_of_its_own, sink=sys.stderr if args.json else None)
    entries, failed = play(entrants, execute, tell)
    if not entries:
        raise RunFailed("no base finished; the reason of each stands above")
    rows, storage = ranked(entries, COST), Storage(output)
    facts = {"standings": rows, "advised": cheapest(rows, COST)["base"], "failed": failed}
    storage.write(RECORD, json.dumps(facts, indent=2))
    tell("")
    page_or_note(partial(_write_page, storage, rows, failed), PAGE, tell)
    for line in [json.dumps(facts, indent=2)] if args.json else standing_lines(rows):
        say(line)
    for line in failed:
        tell(f"failed: {line}")
    return 1 if failed else 0


def play(
    entrants: Sequence[Entrant], execute: Execute, tell: Callable[[str], None]
) -> tuple[list[Contender], list[str]]:
    """Extracts, trains and judges every base; one that fails does not stop the others.

    Returns:
      The bases that finished, and a line for each that did not.
    """
    entries: list[Contender] = []
    failed: list[str] = []
    for entrant in entrants:
        try:
            run_steps(entrant.steps, Storage(f"{entrant.store.rpartition('/')[0]}"), execute, tell)
            entries.append(judged(entrant))
        except (StepFailed, RunFailed) as error:
            failed.append(f"{entrant.typed}: {one_line(error)}")
    return entries, failed


def _write_page(storage: Storage, rows: Sequence[dict[str, Any]], failed: Sequence[str]) -> str:
    storage.write(PAGE, page_of(rows, failed))
    return f"{storage.public_url}/{PAGE}"


if __name__ == "__main__":
    main(run, kept=KEPT)
