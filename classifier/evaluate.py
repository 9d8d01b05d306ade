"""Evaluates a trained head on a split of a store: ``python -m classifier.evaluate``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from classifier import plots
from classifier.division import shorten
from classifier.evaluation import (
    Scores,
    evaluate,
    require_same_features,
    select_split,
)
from classifier.multilabel import MultiLabelScores
from classifier.run import dump_json, load_run
from featurestore import UsageError, open_store
from featurestore.command import Parser, key_values, main, quiet_libraries, say
from featurestore.storage import Storage

LISTED_CLASSES = 20


def parser() -> Parser:
    """Returns the command's arguments."""
    result = Parser(
        prog="python -m classifier.evaluate",
        description="Loss, accuracy, top-5, figures per class and the confusion matrix of a head.",
        epilog="Writes RUN/evaluation/<split>-<head_id>.json and .png.",
    )
    add = result.add_argument
    add("--run", required=True, help="folder of the training run")
    add("--store", required=True, help="feature store with the same kind of features")
    add("--split", default="test", help="a split of the store, or all (default %(default)s)")
    add("--head_id", help="default: the leaderboard's first")
    add("--output", help="another folder for the files (default RUN/evaluation)")
    add("--storage_options", nargs="+", default=[], metavar="K=V", help="for the file system")
    add("--json", action="store_true", help="print the figures as JSON and nothing else")
    return result


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    arguments = parser().parse_args(argv)
    file_system = key_values(arguments.storage_options, "--storage_options")
    trained = load_run(arguments.run, file_system)
    head_id = trained.head_id(arguments.head_id)
    store = open_store(arguments.store, file_system)
    require_same_features(trained, store)
    selection = select_split(trained, store, arguments.split)
    scores = evaluate(trained, head_id, store, selection)
    record = {
        "run": trained.url,
        "head_id": head_id,
        "store": store.url,
        "split": arguments.split,
        "classes": list(trained.classes),
        **scores.to_record(),
    }
    output = Storage(arguments.output or f"{arguments.run.rstrip('/')}/evaluation", file_system)

    def tell(line: str) -> None:
        if not arguments.json:
            say(line)

    # Figures first: they must not be lost to a folder that cannot be written to.
    if arguments.json:
        say(dump_json(record).rstrip())
    _tell_figures(record, tell)
    try:
        _write(output, record, scores, tell)
    except (OSError, ValueError) as error:
        flag = "--output" if arguments.output else "--run"
        raise UsageError(
            f"{flag}: cannot write to {output.public_url!r}: {error}; give an --output that you "
            "may write to"
        ) from error
    tell(f"written to {output.public_url}")
    return 0


def _write(
    output: Storage,
    record: Mapping[str, Any],
    scores: Scores | MultiLabelScores,
    tell: Callable[[str], None],
) -> None:
    # A split's name is the user's own and may hold what a file name may not.
    split = re.sub(r"[^\w.-]", "_", record["split"])
    name = f"{split}-{record['head_id']}"
    output.write(f"{name}.json", dump_json(record))
    if isinstance(scores, MultiLabelScores):
        # A row of several classes has no one place in a confusion matrix.
        return
    title = f"{record['head_id']} on {record['split']}: accuracy {record['accuracy']:.1%}"
    plots.write_or_skip(
        output,
        f"{name}.png",
        lambda: plots.confusion_figure(scores.confusion, scores.classes, title),
        tell,
    )


def _tell_figures(record: Mapping[str, Any], tell: Callable[[str], None]) -> None:
    top = f", top-5 {record['top_5_accuracy']:.4f}" if "top_5_accuracy" in record else ""
    top += f", macro F1 {record['macro_f1']:.4f}" if "macro_f1" in record else ""
    tell(
        f"{record['head_id']} on {record['split']}: accuracy {record['accuracy']:.4f}{top}, loss "
        f"{record['loss']:.4f}, {record['rows']} rows"
    )
    # The weakest come first: they are what a reader looks for among many.
    ranked = sorted(record["per_class"], key=lambda row: -1 if row["f1"] is None else row["f1"])
    listed = ranked[:LISTED_CLASSES]
    width = max(len("class"), *(len(row["class"]) for row in listed))
    tell(f"  {'class':<{width}}  precision  recall      f1  support")
    for row in listed:
        tell(
            f"  {row['class']:<{width}}  {_figure(row['precision']):>9}  "
            f"{_figure(row['recall']):>6}  {_figure(row['f1']):>6}  {row['support']:>7}"
        )
    if len(ranked) > len(listed):
        tell(f"  and {len(ranked) - len(listed)} better classes, in the JSON file")
    if record["unknown_labels"]:
        rows = sum(record["unknown_labels"].values())
        names = shorten(list(record["unknown_labels"]))
        tell(f"note: {rows} rows have labels the head never learned, and are left out: {names}")
    if record["unlabelled"]:
        tell(f"note: {record['unlabelled']} rows without a label are left out")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main(run)
