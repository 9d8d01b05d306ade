"""Classifies image files with a trained head: ``python -m classifier.predict``."""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Mapping, Sequence
from functools import partial

from classifier.figures import plots
from classifier.inputs.lister import Lister
from classifier.inputs.refs import shard_format
from classifier.judgement.prediction import Prediction, classifier_of, predict, required_temperature
from classifier.runs.run import dump_json, load_run
from featurestore import UsageError
from featurestore.cli.command import Parser, key_values, main, quiet_libraries, say
from featurestore.io.urls import ADDRESS_ERRORS, connect, public_url

KEPT = "the predictions that are shown are complete; give the command again for the rest"
PLOTTED = 24


def parser() -> Parser:
    """Returns the command's arguments."""
    result = Parser(
        prog="python -m classifier.predict",
        description="Prints the most probable classes of image files.",
    )
    add = result.add_argument
    add("images", nargs="+", metavar="IMAGE", help="files, patterns or fsspec URLs")
    add("--run", required=True, help="folder of the training run")
    add("--top", type=int, default=5, help="classes per image (default %(default)s)")
    add("--plot", metavar="FILE.png", help="picture to write: the images with their classes")
    add("--head_id", help="head to use (default: the first of the leaderboard)")
    add(
        "--calibrated",
        action="store_true",
        help="scale probabilities by the temperature fitted on the validation rows",
    )
    add("--trust_model", action="store_true", help="allow Lambda layers in the run's base")
    add("--storage_options", nargs="+", default=[], metavar="K=V", help="file system options")
    add("--json", action="store_true", help="print the predictions as JSON and nothing else")
    return result


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    arguments = parser().parse_args(argv)
    if arguments.top < 1:
        raise UsageError(f"--top must be at least 1, got {arguments.top}")
    file_system = key_values(arguments.storage_options, "--storage_options")
    trained = load_run(arguments.run, file_system)
    head_id = trained.head_id(arguments.head_id)
    temperature = required_temperature(trained, head_id) if arguments.calibrated else 1.0
    uris = find_images(arguments.images, file_system)
    if arguments.plot:
        plots.new_figure(1, 1)
    found: list[Prediction] = []
    drawn = 0
    tell = partial(say, to_stderr=True)
    classify = classifier_of(trained, head_id, tell, arguments.trust_model, temperature)
    for prediction in predict(trained, classify, uris, file_system, arguments.top):
        wanted = arguments.plot and drawn < PLOTTED
        drawn += not prediction.error
        found.append(prediction if wanted else dataclasses.replace(prediction, pixels=None))
        if not arguments.json:
            say(_line(prediction), to_stderr=bool(prediction.error))
    good = [prediction for prediction in found if not prediction.error]
    try:
        if arguments.plot and good:
            _plot(arguments.plot, good, file_system)
    finally:
        # Predictions are printed even if the picture cannot be written.
        if arguments.json:
            record = {
                "run": trained.url,
                "head_id": head_id,
                "predictions": [prediction.to_record() for prediction in found],
            }
            say(dump_json(record).rstrip())
        else:
            bad = len(found) - len(good)
            say(f"{len(good)} images classified by {head_id}" + (f", {bad} bad" if bad else ""))
    return 0 if good else 1


def find_images(patterns: Sequence[str], storage_options: Mapping[str, str]) -> list[str]:
    """Lists the images that files, patterns and URLs name, in the order given.

    Raises:
      UsageError: for a missing file, a pattern without a match, and a folder or shard.
    """
    found: list[str] = []
    for pattern in patterns:
        try:
            found.extend(_matches(pattern, storage_options))
        except (OSError, *ADDRESS_ERRORS):
            # It may exist: reading it reports what is wrong, and the other images are classified.
            found.append(pattern)
    return list(dict.fromkeys(found))


def _matches(pattern: str, storage_options: Mapping[str, str]) -> list[str]:
    try:
        fs, path = connect(pattern, storage_options, "IMAGE")
    except UsageError:
        return [pattern]
    lister = Lister(fs)
    kind, shown = lister.kind(path), public_url(pattern)
    if kind == "directory":
        raise UsageError(
            f"IMAGE: {shown!r} is a folder; give its images, such as '{shown.rstrip('/')}/*.jpg'"
        )
    if kind and shard_format(path):
        raise UsageError(
            f"IMAGE: {shown!r} is an archive of images; python -m pipelines.pack --format folder "
            "unpacks it"
        )
    if kind:
        return [pattern]
    matches = []
    if glob.has_magic(path):
        matches = [name for name in lister.glob(path) if lister.kind(name) == "file"]
    if not matches:
        raise UsageError(f"IMAGE: no file {shown!r}; give image files, patterns or URLs")
    return [fs.unstrip_protocol(name) if "://" in pattern else name for name in matches]


def _line(prediction: Prediction) -> str:
    if prediction.error:
        return f"{prediction.uri}: bad image: {prediction.error}"
    answers = ", ".join(f"{label} {value:.1%}" for label, value in prediction.top)
    return f"{prediction.uri}: {answers}"


def _plot(target: str, good: Sequence[Prediction], storage_options: Mapping[str, str]) -> None:
    figure = plots.prediction_figure(
        [
            (item.pixels, item.uri.rsplit("/", 1)[-1], item.top)
            for item in good[:PLOTTED]
            if item.pixels is not None
        ]
    )
    plots.write_file(target, plots.png(figure), storage_options, "--plot")


if __name__ == "__main__":
    main(run, kept=KEPT)
