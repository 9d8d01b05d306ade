"""Classifies image files with a trained head: ``python -m classifier.predict``."""

from __future__ import annotations

import itertools
import json
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from classifier.exporting.about import read_about
from classifier.figures import plots
from classifier.inputs import ImageRef, InputOptions
from classifier.inputs.batches import read_batches
from classifier.inputs.found import Found
from classifier.inputs.named import named_inputs
from classifier.judgement.prediction import (
    BATCH_SIZE,
    Classifier,
    Prediction,
    Tally,
    classifier_of,
    predict,
    required_temperature,
)
from classifier.runs.run import Run, dump_json, load_run
from featurestore import UsageError
from featurestore.cli.command import Parser, key_values, main, quiet_libraries, say
from featurestore.io.cores import cores

KEPT = "the predictions that are shown are complete; give the command again for the rest"
PLOTTED = 24


def parser() -> Parser:
    """Returns the command's arguments."""
    result = Parser(
        prog="python -m classifier.predict",
        description="Prints the most probable classes of images, as it goes.",
        epilog="IMAGE: files, folders, patterns, shards (*.tar, *.zip, *.tfrecord, *.parquet), "
        "lists (*.csv), URLs, or - for names on standard input, one a line. Folders, patterns, "
        "shards and lists may tell the true classes; then the accuracy is printed at the end.",
    )
    add = result.add_argument
    add("images", nargs="*", metavar="IMAGE", help="see below")
    add("--input", nargs="+", action="extend", default=[], metavar="URI", help="more of them")
    add("--run", help="folder of the training run")
    add("--model", metavar="FILE", help="a file that classifier.export wrote, instead of --run")
    add("--top", type=int, default=5, help="classes per image (default %(default)s)")
    add("--plot", metavar="FILE.png", help="picture to write: the first images with their classes")
    add("--head_id", help="head to use (default: the first of the leaderboard)")
    add(
        "--calibrated",
        action="store_true",
        help="scale probabilities by the temperature fitted on the validation rows",
    )
    add("--trust_model", action="store_true", help="allow Lambda layers in the run's base")
    add("--storage_options", nargs="+", default=[], metavar="K=V", help="file system options")
    form = result.add_mutually_exclusive_group().add_argument
    form("--json", action="store_true", help="print one JSON document at the end, nothing else")
    form("--jsonl", action="store_true", help="print a line of JSON per image, nothing else")
    return result


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    arguments = parser().parse_args(argv)
    names = [*arguments.images, *arguments.input]
    if not names:
        raise UsageError("IMAGE: name images, folders or shards, or - for names on standard input")
    _check(arguments)
    file_system = key_values(arguments.storage_options, "--storage_options")
    # Mistakes are reported before images are listed.
    opened: Callable[[int], AbstractContextManager[Classifier]]
    if arguments.model:
        read_about(Path(arguments.model))
        opened = partial(_exported, arguments)
    else:
        opened = _trained(arguments, load_run(arguments.run, file_system))
    tell = partial(say, to_stderr=True)
    found = Found(say=tell)
    refs = named_inputs(names, InputOptions(storage_options=file_system), sys.stdin, found)
    if arguments.plot:
        plots.new_figure(1, 1)
    # A single lane has all cores, which is faster for as many images as one batch holds.
    head = list(itertools.islice(refs, BATCH_SIZE + 1))
    few = len(head) <= BATCH_SIZE and all(isinstance(ref, ImageRef) for ref in head)
    lanes = 1 if few else cores()
    refs = itertools.chain(head, refs)
    batches = read_batches(refs, file_system, BATCH_SIZE, found.ignored)
    with opened(lanes) as classifier:
        output = _Output(arguments, classifier, Tally(frozenset(classifier.classes)))
        for prediction in predict(classifier, batches, arguments.top, lanes):
            output.take(prediction)
    try:
        if output.pictures:
            _plot(arguments.plot, output.pictures, file_system)
    finally:
        # Predictions are printed even if the picture cannot be written.
        output.end(found)
    return 0 if output.good else 1


def _check(arguments: Namespace) -> None:
    """Refuses flags that do not go together."""
    if arguments.top < 1:
        raise UsageError(f"--top must be at least 1, got {arguments.top}")
    if bool(arguments.run) == bool(arguments.model):
        got = "both" if arguments.run else "neither"
        raise UsageError(f"give --run, or --model with an exported file; got {got}")
    for flag in ("head_id", "calibrated"):
        if arguments.model and getattr(arguments, flag):
            raise UsageError(
                f"--{flag} is for --run: an exported file has one head, with the temperature that "
                "it was exported with; leave it out, or export the run again"
            )


def _exported(arguments: Namespace, lanes: int) -> AbstractContextManager[Classifier]:
    from classifier.exporting.answering import exported_classifier

    return exported_classifier(Path(arguments.model), arguments.trust_model)


def _trained(
    arguments: Namespace, trained: Run
) -> Callable[[int], AbstractContextManager[Classifier]]:
    """Returns a function from the number of lanes to the run's head, loaded for them."""
    head_id = trained.head_id(arguments.head_id)
    temperature = required_temperature(trained, head_id) if arguments.calibrated else 1.0
    tell, trusted = partial(say, to_stderr=True), arguments.trust_model

    def load(lanes: int) -> AbstractContextManager[Classifier]:
        classify = classifier_of(trained, head_id, tell, trusted, temperature, lanes)
        return nullcontext(Classifier.of(trained, head_id, classify))

    return load


@dataclass
class _Output:
    """Prints predictions, and keeps what is needed at the end."""

    arguments: Namespace
    classifier: Classifier
    tally: Tally
    good: int = 0
    bad: int = 0
    pictures: list[Prediction] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)

    def take(self, prediction: Prediction) -> None:
        """Prints a prediction, or keeps it for the end."""
        self.tally.count(prediction)
        self.good += not prediction.error
        self.bad += bool(prediction.error)
        if self.arguments.plot and not prediction.error and len(self.pictures) < PLOTTED:
            self.pictures.append(prediction)
        if self.arguments.json:
            self.records.append(prediction.to_record())
        elif self.arguments.jsonl:
            say(json.dumps(prediction.to_record()))
        else:
            say(_line(prediction), to_stderr=bool(prediction.error))

    def end(self, found: Found) -> None:
        """Prints the summary; with --jsonl to standard error."""
        judged = {} if self.classifier.multi_label else self.tally.to_record()
        if self.arguments.json:
            record: dict[str, Any] = {
                "run": self.classifier.run,
                "head_id": self.classifier.head_id,
            }
            record |= {"model": self.arguments.model} if self.arguments.model else {}
            record["predictions"] = self.records
            say(dump_json({**record, "judged": judged} if judged else record).rstrip())
            return
        tell = partial(say, to_stderr=self.arguments.jsonl)
        bad = f", {self.bad:,} bad" if self.bad else ""
        tell(f"{self.good:,} images classified by {self.classifier.name}{bad}")
        if found.ignored.count:
            tell(f"note: {found.ignored.count:,} other files were left out")
        if judged:
            low, high = judged["interval"]["lower"], judged["interval"]["upper"]
            tell(
                f"accuracy {judged['accuracy']:.4f} on {judged['rows']:,} images whose class is "
                f"known, {judged['interval']['level']:.0%} interval {low:.4f} to {high:.4f}, exact"
            )
        if self.tally.unknown and not self.classifier.multi_label:
            tell(
                f"note: {self.tally.unknown:,} images have labels that the head was not trained "
                "on, and do not count"
            )


def _line(prediction: Prediction) -> str:
    if prediction.error:
        return f"{prediction.uri}: bad image: {prediction.error}"
    answers = ", ".join(f"{label} {value:.1%}" for label, value in prediction.top)
    true = f" (true: {', '.join(prediction.labels)})" if prediction.labels else ""
    return f"{prediction.uri}: {answers}{true}"


def _plot(target: str, good: Sequence[Prediction], storage_options: Mapping[str, str]) -> None:
    figure = plots.prediction_figure(
        [
            (item.pixels, item.uri.rsplit("/", 1)[-1], item.top, item.labels)
            for item in good
            if item.pixels is not None
        ]
    )
    plots.write_file(target, plots.png(figure), storage_options, "--plot")


if __name__ == "__main__":
    main(run, kept=KEPT)
