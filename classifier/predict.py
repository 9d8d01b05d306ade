"""Classifies image files with a trained head: ``python -m classifier.predict``."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from classifier.figures import plots
from classifier.inputs.lister import Lister
from classifier.inputs.refs import shard_format
from classifier.runs.run import Run, dump_json, load_run
from featurestore import UsageError
from featurestore.cli.command import Parser, key_values, main, quiet_libraries, say
from featurestore.errors import one_line
from featurestore.io.retry import retrying
from featurestore.io.urls import ADDRESS_ERRORS, connect, public_url

KEPT = "the predictions that are shown are whole; give the command again for the rest"
BATCH_SIZE = 32
PLOTTED = 24


@dataclass(frozen=True)
class Prediction:
    """What a head says of one image.

    Attributes:
      uri: of the image, without credentials.
      top: (label, probability) pairs, best first; empty for a bad image.
      error: one line on why the image could not be used, else "".
      pixels: uint8 (H, W, 3) as the base saw them, None for a bad image.
    """

    uri: str
    top: tuple[tuple[str, float], ...] = ()
    error: str = ""
    pixels: np.ndarray | None = None

    def to_record(self) -> dict[str, Any]:
        """Returns the prediction, fit for JSON."""
        if self.error:
            return {"image": self.uri, "error": self.error}
        top = [{"class": label, "probability": value} for label, value in self.top]
        return {"image": self.uri, "top": top}


def parser() -> Parser:
    """Returns the command's arguments."""
    result = Parser(
        prog="python -m classifier.predict",
        description="Prints the most probable classes of image files.",
    )
    add = result.add_argument
    add("images", nargs="+", metavar="IMAGE", help="files, patterns or fsspec URLs")
    add("--run", required=True, help="folder of the training run")
    add("--top", type=int, default=5, help="classes an image (default %(default)s)")
    add("--plot", metavar="FILE.png", help="draw the images beside their classes")
    add("--head_id", help="default: the leaderboard's first")
    add(
        "--calibrated",
        action="store_true",
        help="probabilities at the temperature that was fitted on the validation rows",
    )
    add("--trust_model", action="store_true", help="allow Lambda layers in the run's base")
    add("--storage_options", nargs="+", default=[], metavar="K=V", help="for the file system")
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
    classify = classifier_of(trained, head_id, arguments.trust_model, temperature)
    for prediction in predict(trained, classify, uris, file_system, arguments.top):
        wanted = arguments.plot and drawn < PLOTTED
        drawn += not prediction.error
        found.append(prediction if wanted else _without_pixels(prediction))
        if not arguments.json:
            say(_line(prediction), to_stderr=bool(prediction.error))
    good = [prediction for prediction in found if not prediction.error]
    try:
        if arguments.plot and good:
            _plot(arguments.plot, good, file_system)
    finally:
        # A picture that cannot be written must not cost the predictions.
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
    """Turns files, patterns and URLs into the images they name, in the order given.

    Raises:
      UsageError: for a file that is missing, a pattern that matches none, and a folder or shard.
    """
    found: list[str] = []
    for pattern in patterns:
        try:
            found.extend(_matches(pattern, storage_options))
        except (OSError, *ADDRESS_ERRORS):
            # It may be there: reading it says what is wrong, and the others go on.
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


def predict(
    run: Run,
    classify: Callable[[np.ndarray], np.ndarray],
    uris: Sequence[str],
    storage_options: Mapping[str, str],
    top: int,
) -> Iterator[Prediction]:
    """Classifies images with the very pixels, base and head of the run.

    Args:
      run: that trained the head; knows pixels and classes.
      classify: what `classifier_of` returned for it.
      uris: images.
      storage_options: for their file system.
      top: classes an image, at most.

    Yields:
      One prediction an image, in order, bad images too.
    """
    for start in range(0, len(uris), BATCH_SIZE):
        batch = [_decoded(uri, run, storage_options) for uri in uris[start : start + BATCH_SIZE]]
        images = [item.pixels for item in batch if item.pixels is not None]
        answers = iter(classify(np.stack(images)) if images else ())
        for item in batch:
            if item.pixels is None:
                yield item
                continue
            probabilities = next(answers)
            best = np.argsort(-probabilities, kind="stable")[:top]
            ranked = tuple((run.classes[i], float(probabilities[i])) for i in best)
            yield Prediction(item.uri, ranked, "", item.pixels)


def _decoded(uri: str, run: Run, storage_options: Mapping[str, str]) -> Prediction:
    from classifier.pixels.decode import read_decoded
    from classifier.pixels.filetypes import BadImage

    def read() -> bytes:
        fs, path = connect(uri, storage_options, "IMAGE")
        return retrying(lambda: fs.cat_file(path))

    shown = public_url(uri)
    try:
        decoded = read_decoded(read, run.spec.pixels)
    except (BadImage, UsageError, *ADDRESS_ERRORS) as error:
        return Prediction(shown, error=one_line(error))
    return Prediction(shown, pixels=decoded.pixels)


def classifier_of(
    run: Run, head_id: str, trust_model: bool = False, temperature: float = 1.0
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from uint8 (n, H, W, 3) to float64 (n, classes) probabilities.

    Args:
      run: holds the base and the head.
      head_id: of the head.
      trust_model: whether Lambda layers of the base may run.
      temperature: of the probabilities; 1 leaves them as the head gives them.
    """
    from classifier.engines import StoredBase, run_padded, serving_engine
    from classifier.engines.probes import largest_difference
    from classifier.heads.head import logits_model
    from classifier.heads.probabilities import log_probabilities
    from classifier.judgement.evaluation import forward
    from classifier.runtime import import_keras

    import_keras()
    spec = run.spec
    logits_of = forward(logits_model(run.load_head(head_id)))
    engine = serving_engine(StoredBase(run.storage, spec, trust_model), BATCH_SIZE)
    if engine.numerics.hash != spec.numerics.hash:
        difference = largest_difference(run.storage, spec, engine)
        say(
            "this machine computes features otherwise than the one that extracted them; on the "
            f"store's probe images they differ by {difference:.1e} (row-wise, relative)",
            to_stderr=True,
        )

    def classify(images: np.ndarray) -> np.ndarray:
        features = run_padded(engine, images)
        if spec.dtype == "float16":
            # The head learned from rounded features.
            features = features.astype(np.float16)
        logits = logits_of(features)
        if run.multi_label:
            # Each class is a question of its own. tanh cannot overflow.
            return (1 + np.tanh(logits.astype(np.float64) / 2)) / 2
        return np.exp(log_probabilities(logits / temperature))

    return classify


def required_temperature(run: Run, head_id: str) -> float:
    """Returns the temperature that a head's calibration found.

    Raises:
      UsageError: when it was never calibrated, or cannot be.
    """
    from classifier.judgement.judge import load_temperature

    if run.multi_label:
        raise UsageError(
            "--calibrated needs one label a row, and the heads of this run are multi-label; leave "
            "it out"
        )
    found = load_temperature(run, head_id)
    if found is None:
        raise UsageError(
            f"--calibrated: {run.url}: {head_id} has no temperature yet; python -m "
            f"classifier.evaluate --head_id {head_id} with a store that has validation rows fits it"
        )
    return found["temperature"]


def _without_pixels(prediction: Prediction) -> Prediction:
    return Prediction(prediction.uri, prediction.top, prediction.error)


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
