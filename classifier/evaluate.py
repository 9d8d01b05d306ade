"""Evaluates a trained head on a split of a store: ``python -m classifier.evaluate``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from classifier.features.tally import shorten
from classifier.figures import plots
from classifier.judgement.classes import weakest_first
from classifier.judgement.confusions import most_confused
from classifier.judgement.evaluation import require_same_features, select_split
from classifier.judgement.judge import (
    JudgedHead,
    compare,
    comparison_line,
    file_name,
    judge,
    learning_file,
    save_temperature,
)
from classifier.judgement.multilabel import MultiLabelScores
from classifier.reporting.writing import renew_page
from classifier.runs.run import ADOPTED, Run, dump_json, load_run
from classifier.runs.sweep import read_taps
from classifier.training.learning_curve import learning_curve
from featurestore import UsageError, open_store
from featurestore.cli.command import Parser, key_values, main, quiet_libraries, say
from featurestore.cli.streams import say_unless
from featurestore.errors import cannot_write, unknown_choice
from featurestore.io.storage import Storage

LISTED_CLASSES = 20


def parser() -> Parser:
    """Returns the command's arguments."""
    result = Parser(
        prog="python -m classifier.evaluate",
        description="Computes a head's loss, accuracy with its interval, top-5 accuracy, "
        "calibration, figures per class and confusion matrix.",
        epilog="Writes RUN/evaluation/<split>-<head_id>.json and .png, and RUN/report.html again.",
    )
    add = result.add_argument
    add("--run", required=True, help="folder of the training run")
    add("--store", required=True, help="feature store of the run, or one with the same settings")
    add("--split", default="test", help="a split of the store, or all (default %(default)s)")
    add("--head_id", help="head to use (default: the first of the leaderboard)")
    text = "another head to compare with, on the same rows; or the best head of another tap"
    add("--compare", metavar="HEAD_ID|TAP", help=text)
    add(
        "--learning_curve",
        action="store_true",
        help="also train the head on 10, 20, 50 and 100%% of the training images",
    )
    add(
        "--output",
        help="another folder for the files (default RUN/evaluation); leaves RUN unchanged",
    )
    add("--storage_options", nargs="+", default=[], metavar="K=V", help="file system options")
    add("--json", action="store_true", help="print the figures as JSON and nothing else")
    return result


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    arguments = parser().parse_args(argv)
    file_system = key_values(arguments.storage_options, "--storage_options")
    trained = load_run(arguments.run, file_system)
    head_id = trained.head_id(arguments.head_id)
    whole = open_store(arguments.store, file_system).at_this_moment()
    store = whole.tap_of(trained.spec.base)
    require_same_features(trained, store)
    other = _other_tap(arguments, trained, file_system)
    other = other or _other_head(trained, head_id, arguments.compare)
    if arguments.learning_curve and trained.config.heads[head_id] == ADOPTED:
        raise UsageError(
            f"--learning_curve trains the head again, and {head_id!r} was adopted, not trained "
            "here; leave it out"
        )
    tell = say_unless(arguments.json)

    judged = judge(trained, head_id, store, arguments.split)
    record = judged.record
    if other:
        run, other_id = other
        theirs = judge(run, other_id, whole.tap_of(run.spec.base), arguments.split)
        tap = {"tap": run.spec.base.tap} if run is not trained else {}
        record["comparison"] = {**tap, **compare(judged, theirs)}
    output = Storage(arguments.output or f"{trained.storage.url}/evaluation", file_system)
    keep = partial(_keep, trained, judged, output, not arguments.output, tell)
    # Figures are written before they are shown, and shown even if they cannot be written.
    problem = keep()
    _tell_figures(record, tell)
    if arguments.learning_curve:
        selection = select_split(trained, store, arguments.split)
        record["learning"] = learning_curve(trained, head_id, store, selection, tell)
        problem = keep()
    if arguments.json:
        say(dump_json(record).rstrip())
    if problem:
        raise problem
    tell(f"written to {output.public_url}")
    if not arguments.output:
        renew_page(trained, tell)
    return 0


def _other_tap(
    arguments: Namespace, trained: Run, file_system: Mapping[str, Any]
) -> tuple[Run, str] | None:
    """Returns the run of the tap to compare with and its best head, if a tap is named."""
    folder = read_taps(Storage(arguments.run, file_system)).get(arguments.compare)
    if folder is None:
        return None
    run = load_run(f"{arguments.run.rstrip('/')}/{folder}", file_system)
    if run.spec.identity == trained.spec.identity:
        raise UsageError(
            f"--compare: {arguments.compare!r} is the tap that is evaluated; choose another"
        )
    return _other_head(run, "", run.head_id())


def _other_head(trained: Run, head_id: str, wanted: str | None) -> tuple[Run, str] | None:
    """Returns the head to compare with, and its run, if one is named."""
    if wanted is None:
        return None
    if trained.multi_label:
        raise UsageError(
            "--compare needs one label per row, and the heads of this run are multi-label; leave "
            "it out"
        )
    if wanted not in trained.config.heads:
        raise unknown_choice("--compare", wanted, list(trained.config.heads))
    if wanted == head_id:
        raise UsageError(
            f"--compare: {wanted!r} is the head that is evaluated; choose another head of the run"
        )
    return trained, wanted


def _keep(
    trained: Run, judged: JudgedHead, output: Storage, in_run: bool, tell: Callable[[str], None]
) -> UsageError | None:
    """Writes an evaluation, and into the run what later ones use; returns the error, if any."""
    record = judged.record
    try:
        _write(output, judged, tell)
        if in_run:
            save_temperature(trained, record)
        if in_run and "learning" in record:
            name = learning_file(record["split"], record["head_id"])
            trained.storage.write(name, dump_json(record["learning"]))
    except (OSError, ValueError) as error:
        flag, fix = "--run" if in_run else "--output", "give an --output that you may write to"
        problem = cannot_write(flag, output.public_url, error, fix)
        problem.__cause__ = error
        return problem
    return None


def _write(output: Storage, judged: JudgedHead, tell: Callable[[str], None]) -> None:
    record, scores = judged.record, judged.scores
    name = file_name(record["split"], record["head_id"])
    output.write(f"{name}.json", dump_json(record))
    if isinstance(scores, MultiLabelScores) or "learning" in record:
        # A row of several classes has no place in a confusion matrix. The learning curve comes
        # last, when the picture is already written.
        return
    title = f"{record['head_id']} on {record['split']}: accuracy {record['accuracy']:.1%}"
    shown = most_confused(scores.confusion, plots.READABLE_CLASSES).tolist()
    plots.write_or_skip(
        output,
        f"{name}.png",
        lambda: plots.confusion_figure(scores.confusion, scores.classes, title, shown),
        tell,
    )


def _tell_figures(record: Mapping[str, Any], tell: Callable[[str], None]) -> None:
    top = f", top-5 {record['top_5_accuracy']:.4f}" if "top_5_accuracy" in record else ""
    if record.get("mean_average_precision") is not None:  # multi-label heads
        top = f", mAP {record['mean_average_precision']:.4f}, macro F1 {record['macro_f1']:.4f}"
    tell(
        f"{record['head_id']} on {record['split']}: accuracy {record['accuracy']:.4f}{top}, loss "
        f"{record['loss']:.4f}, {record['rows']} rows"
    )
    if "interval" in record:  # heads with one label per row
        _tell_trust(record, tell)
    ranked = weakest_first(record["per_class"])
    listed = ranked[:LISTED_CLASSES]
    width = max(len("class"), *(len(row["class"]) for row in listed))
    tell(f"  {'class':<{width}}  precision  recall      f1  support")
    for row in listed:
        tell(
            f"  {row['class']:<{width}}  {_figure(row['precision']):>9}  "
            f"{_figure(row['recall']):>6}  {_figure(row['f1']):>6}  {row['support']:>7}"
        )
    if len(ranked) > len(listed):
        tell(f"  and {len(ranked) - len(listed)} more classes, in the JSON file")
    if empty := [row["class"] for row in ranked if not row["support"]]:
        tell(
            f"note: {len(empty)} classes have no rows in this split, listed last: {shorten(empty)}"
        )
    if record["unknown_labels"]:
        many = sum(record["unknown_labels"].values())
        names = shorten(list(record["unknown_labels"]))
        what = "rows have labels that the head was not trained on"
        if "macro_f1" in record:  # A row may have other labels too.
            what = "labels are not among those that the head was trained on"
        tell(f"note: {many} {what}, and are left out: {names}")
    if record["unlabelled"]:
        tell(f"note: {record['unlabelled']} rows without a label are left out")


def _tell_trust(record: Mapping[str, Any], tell: Callable[[str], None]) -> None:
    found = record["interval"]
    way = f"by {found['resamples']:,} bootstrap resamples" if found["resamples"] else "exact"
    tell(
        f"  {found['level']:.0%} interval of accuracy {found['lower']:.4f} to "
        f"{found['upper']:.4f}, "
        f"{way}"
    )
    calibration = record["calibration"]
    if calibration and calibration["after"]:
        tell(
            f"  calibration error {calibration['before']['ece']:.4f}, and "
            f"{calibration['after']['ece']:.4f} at temperature "
            f"{calibration['temperature']['temperature']:.3f} (fitted on the validation rows)"
        )
    if pairs := record["confused"]:
        first = pairs[0]
        tell(
            f"  most confused: {first['class']} taken for {first['predicted']}, "
            f"{first['rows']} rows, {first['share']:.1%} of its class"
        )
    if other := record.get("comparison"):
        name = " ".join(filter(None, (other.get("tap"), other["head_id"])))
        tell(f"  {comparison_line(record['head_id'], name, other)}")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main(run)
