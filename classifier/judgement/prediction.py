"""Predicts the classes of image files with the pixels, base and head of a run."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from classifier.engines import StoredBase, run_padded, serving_engine
from classifier.engines.probes import largest_difference
from classifier.heads.probabilities import log_probabilities
from classifier.inputs.batches import Read
from classifier.inputs.refs import ImageRef, ShardRef, explain
from classifier.judgement.intervals import accuracy_interval
from classifier.judgement.judge import load_temperature
from classifier.pixels.decoder import decode
from classifier.pixels.filetypes import BadImage
from classifier.runs.run import Run
from classifier.runtime import import_keras
from featurestore.errors import UsageError, one_line
from featurestore.io.readahead import ordered_map
from featurestore.io.urls import public_url
from featurestore.spec import PixelSpec

BATCH_SIZE = 32


@dataclass(frozen=True)
class Classifier:
    """What classifies images: a head of a run, or an exported file.

    Attributes:
      name: for the user.
      head_id: of the head.
      run: address of the run that trained it.
      classes: its classes.
      multi_label: whether each class has a probability of its own.
      pixels: how images are decoded.
      meant_by: from an image's labels to the classes that they mean.
      answer: from uint8 (n, H, W, 3) to float (n, classes) probabilities; several threads may call
        it at once.
    """

    name: str
    head_id: str
    run: str
    classes: tuple[str, ...]
    multi_label: bool
    pixels: PixelSpec
    meant_by: Callable[[Iterable[str]], tuple[str, ...]]
    answer: Callable[[np.ndarray], np.ndarray]

    @classmethod
    def of(cls, run: Run, head_id: str, answer: Callable[[np.ndarray], np.ndarray]) -> Classifier:
        """Makes a classifier of a run's head; `answer` is the result of `classifier_of`."""
        features = run.spec.pixels, run.meant_by
        return cls(head_id, head_id, run.url, run.classes, run.multi_label, *features, answer)


@dataclass(frozen=True)
class Prediction:
    """A head's prediction for one image.

    Attributes:
      uri: of the image, without credentials.
      top: (label, probability) pairs, best first; empty for a bad image.
      error: one line that says why the image could not be used, else "".
      pixels: uint8 (H, W, 3) that the base received, None for a bad image.
      labels: the true classes, where the input has them.
    """

    uri: str
    top: tuple[tuple[str, float], ...] = ()
    error: str = ""
    pixels: np.ndarray | None = None
    labels: tuple[str, ...] = ()

    def to_record(self) -> dict[str, Any]:
        """Returns the prediction as JSON values."""
        record: dict[str, Any] = {"image": self.uri}
        if self.labels:
            record["labels"] = list(self.labels)
        if self.error:
            return {**record, "error": self.error}
        top = [{"class": label, "probability": value} for label, value in self.top]
        return {**record, "top": top}


def predict(
    classifier: Classifier, batches: Iterable[list[Read]], top: int, lanes: int = 1
) -> Iterator[Prediction]:
    """Classifies images, with a run's head as fast as an extraction.

    Args:
      classifier: has the pixels' spec and the classes.
      batches: images with their content, of at most `BATCH_SIZE`; a few of them are held at once.
      top: the largest number of classes per image.
      lanes: threads that each decode and classify their own batches.

    Yields:
      One prediction per image, in order, also for bad images.
    """
    answer = partial(_classified, classifier, top)
    pool = ThreadPoolExecutor(lanes, "lane")
    try:
        for answers in ordered_map(pool, answer, batches, lanes + 1):
            yield from answers
    finally:
        pool.shutdown(cancel_futures=True)


def _classified(classifier: Classifier, top: int, batch: list[Read]) -> list[Prediction]:
    decoded = [_decoded(classifier, ref, content) for ref, content in batch]
    images = [item.pixels for item in decoded if item.pixels is not None]
    answers = iter(classifier.answer(np.stack(images)) if images else ())
    return [
        item if item.pixels is None else replace(item, top=_ranked(classifier, next(answers), top))
        for item in decoded
    ]


def _ranked(
    classifier: Classifier, probabilities: np.ndarray, top: int
) -> tuple[tuple[str, float], ...]:
    best = np.argsort(-probabilities, kind="stable")[:top]
    return tuple((classifier.classes[i], float(probabilities[i])) for i in best)


def _decoded(
    classifier: Classifier, ref: ImageRef | ShardRef, content: bytes | OSError
) -> Prediction:
    labels = classifier.meant_by(ref.labels) if isinstance(ref, ImageRef) else ()
    found = Prediction(public_url(ref.uri), labels=labels)
    if isinstance(content, OSError):
        return replace(found, error=f"unreadable: {' '.join(explain(content).split())}")
    try:
        return replace(found, pixels=decode(content, classifier.pixels).pixels)
    except BadImage as error:
        return replace(found, error=one_line(error))


@dataclass
class Tally:
    """Counts the predictions whose true class is known.

    Attributes:
      classes: of the head.
      rows: images with one label, which the head was trained on.
      hits: those of them that were classified correctly.
      unknown: images with other labels.
    """

    classes: Container[str]
    rows: int = 0
    hits: int = 0
    unknown: int = 0

    def count(self, prediction: Prediction) -> None:
        """Counts one prediction."""
        labels = prediction.labels
        if prediction.error or not labels:
            return
        if len(labels) == 1 and labels[0] in self.classes:
            self.rows += 1
            self.hits += prediction.top[0][0] == labels[0]
        else:
            self.unknown += 1

    def to_record(self) -> dict[str, Any]:
        """Returns the accuracy with its interval as JSON values; {} without true classes."""
        if not self.rows:
            return {}
        interval = accuracy_interval(self.hits, self.rows)
        return {
            "rows": self.rows,
            "accuracy": interval.estimate,
            "interval": interval.to_record(),
            "unknown_labels": self.unknown,
        }


def classifier_of(
    run: Run,
    head_id: str,
    tell: Callable[[str], None],
    trust_model: bool = False,
    temperature: float = 1.0,
    lanes: int = 1,
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from uint8 (n, H, W, 3) to float64 (n, classes) probabilities.

    Args:
      run: holds the base and the head.
      head_id: of the head.
      tell: takes a line for the user if this machine's numerics differ from the store's.
      trust_model: whether Lambda layers of the base may run.
      temperature: of the probabilities; 1 leaves them unscaled.
      lanes: threads that call the function at once.
    """
    import_keras()
    spec = run.spec
    # The engine comes first, because TensorFlow takes its number of threads when it starts.
    engine = serving_engine(StoredBase(run.storage, spec, trust_model), BATCH_SIZE, lanes)
    logits_of = run.logits_of(head_id)
    if engine.numerics.hash != spec.numerics.hash:
        difference = largest_difference(run.storage, spec, engine)
        tell(
            "this machine computes features differently from the one that extracted them; on the "
            f"store's probe images they differ by {difference:.1e} (row-wise, relative)"
        )

    def classify(images: np.ndarray) -> np.ndarray:
        features = run_padded(engine, images)
        if spec.dtype == "float16":
            # The head learned from rounded features.
            features = features.astype(np.float16)
        return probabilities_of(run, logits_of(features), temperature)

    return classify


def probabilities_of(run: Run, logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Returns float64 (n, classes) probabilities.

    Args:
      run: that trained the head.
      logits: float (n, classes), or (n, 1) for two classes of which a row has one.
      temperature: of the probabilities; for heads with one label per row.
    """
    if run.multi_label:
        # A sigmoid for each class; tanh cannot overflow.
        return (1 + np.tanh(logits.astype(np.float64) / 2)) / 2
    return np.exp(log_probabilities(logits / temperature))


def required_temperature(run: Run, head_id: str) -> float:
    """Returns the temperature of a head's calibration.

    Raises:
      UsageError: when the head was never calibrated, or cannot be.
    """
    if run.multi_label:
        raise UsageError(
            "--calibrated needs one label per row, and the heads of this run are multi-label; "
            "leave it out"
        )
    found = load_temperature(run, head_id)
    if found is None:
        raise UsageError(
            f"--calibrated: {run.url}: {head_id} has no temperature yet; python -m "
            f"classifier.evaluate --head_id {head_id} with a store that has validation rows fits it"
        )
    return found["temperature"]
