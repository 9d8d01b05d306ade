"""Runs all steps of a recipe: extraction, training, evaluation, and what else it has.

    python -m pipelines.recipe digits --output demo
    python -m pipelines.recipe vgg16-180 --input photos --output cats

Every step is a command, which is printed before it runs and which you can copy. The same command
resumes where it was interrupted, and runs only the steps whose settings or images have changed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from classifier.recipes.recipe import read_recipe
from featurestore import open_store
from featurestore.cli.command import Parser, main, quiet_libraries, say
from featurestore.cli.streams import say_unless
from featurestore.io.storage import Storage
from pipelines.driver import SAMPLE_FOLDER
from pipelines.execution import in_process_of_its_own, run_steps
from pipelines.steps import EXTRACTIONS, RUNS, Step, add_step_flags, say_plan, steps_of

KEPT = "finished steps stay in --output; give the same command again"
REPORT = "report.html"


def build_parser() -> Parser:
    """Returns the command's parser."""
    parser = Parser(prog="python -m pipelines.recipe", description=__doc__)
    parser.add_argument(
        "recipe", metavar="NAME|FILE.yaml", help="python -m classifier.recipes lists the names"
    )
    changes = "change the recipe, such as train.epochs=5 extract.limit=100"
    add_step_flags(parser, "folder of the store, the run and the rest", changes)
    return parser


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    args = build_parser().parse_args(argv)
    recipe = read_recipe(args.recipe).with_settings(args.set)
    steps = steps_of(recipe, args.input, args.output)
    tell = say_unless(args.json)
    if args.plan:
        say_plan(steps, args.json)
        return 0
    # What the steps print is not the summary.
    sink = sys.stderr if args.json else None
    execute = partial(in_process_of_its_own, sink=sink)
    ran = run_steps(steps, Storage(args.output), execute, tell)
    example = args.input[0] if args.input else f"{SAMPLE_FOLDER}/test/7/*.png"
    facts = {"recipe": recipe.name, "commands": ran, **summary(steps), "example": example}
    if args.json:
        say(json.dumps(facts, indent=2))
    else:
        say()
        for line in summary_lines(facts):
            say(line)
    return 0


def summary(steps: Sequence[Step]) -> dict[str, Any]:
    """Returns what the steps wrote, and how good it is.

    Returns:
      Lists of stores (address, rows, shape), runs (folder, report, its figures by split) and
      further files, fit for JSON.
    """
    facts: dict[str, Any] = {"stores": [], "runs": [], "files": []}
    for step in steps:
        if step.section in EXTRACTIONS:
            store = open_store(step.result)
            runs = [json.loads(store.storage.read(name)) for name in _files(store.storage, "runs")]
            largest = max(runs, key=lambda record: record["ledger"]["rows"])
            found = {"store": step.result, "rows": store.ledger().rows}
            found["feature_shape"] = list(store.spec.feature_shape)
            found["images_per_second"] = largest["images_per_second"]
            facts["stores"].append(found)
        elif step.section in RUNS:
            storage = Storage(step.result)
            judged = [json.loads(storage.read(name)) for name in _files(storage, "evaluation")]
            figures = {record["split"]: record["accuracy"] for record in judged}
            report = f"{step.result}/{REPORT}" if storage.exists(REPORT) else ""
            facts["runs"].append({"run": step.result, "accuracy": figures, "report": report})
            for folder in ("plots", "evaluation"):
                pictures = _files(storage, folder, ".png")
                facts["files"] += [f"{step.result}/{picture}" for picture in pictures]
        elif step.result:
            facts["files"].append(step.result)
    return facts


def _files(storage: Storage, folder: str, suffix: str = ".json") -> list[str]:
    names = (f"{folder}/{file.name}" for file in storage.list(folder))
    return [name for name in names if name.endswith(suffix)]


def summary_lines(facts: Mapping[str, Any]) -> list[str]:
    """Returns the lines of a summary for a person."""
    lines = []
    for run in facts["runs"]:
        for split, accuracy in run["accuracy"].items():
            lines.append(f"{split} accuracy {accuracy:.4f}, {run['run']}")
    for store in facts["stores"]:
        shape = ", ".join(map(str, store["feature_shape"]))
        rate = f"{store['images_per_second']:,.1f} images/s with start-up"
        lines.append(f"store   {store['store']}, {store['rows']:,} rows of ({shape}), {rate}")
    for run in facts["runs"]:
        lines.append(f"run     {run['run']}")
        lines += [f"report  {run['report']}"] if run["report"] else []
    lines += [f"file    {name}" for name in facts["files"]]
    if facts["runs"]:
        image = facts["example"]
        lines.append(
            f"try     python -m classifier.predict --run {facts['runs'][-1]['run']} {image}"
        )
    return lines


if __name__ == "__main__":
    main(run, kept=KEPT)
