"""Predicts the classes of image files with the pixels, base and head of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from classifier.engines import StoredBase, run_padded, serving_engine
from classifier.engines.probes import largest_difference
from classifier.heads.head import logits_model
from classifier.heads.probabilities import log_probabilities
from classifier.judgement.evaluation import forward
from classifier.judgement.judge import load_temperature
from classifier.pixels.decoder import read_decoded
from classifier.pixels.filetypes import BadImage
from classifier.runs.run import Run
from classifier.runtime import import_keras
from featurestore.errors import UsageError, one_line
from featurestore.io.retry import retrying
from featurestore.io.urls import ADDRESS_ERRORS, connect, public_url

BATCH_SIZE = 32


@dataclass(frozen=True)
class Prediction:
    """A head's prediction for one image.

    Attributes:
      uri: of the image, without credentials.
      top: (label, probability) pairs, best first; empty for a bad image.
      error: one line that says why the image could not be used, else "".
      pixels: uint8 (H, W, 3) that the base received, None for a bad image.
    """

    uri: str
    top: tuple[tuple[str, float], ...] = ()
    error: str = ""
    pixels: np.ndarray | None = None

    def to_record(self) -> dict[str, Any]:
        """Returns the prediction as JSON values."""
        if self.error:
            return {"image": self.uri, "error": self.error}
        top = [{"class": label, "probability": value} for label, value in self.top]
        return {"image": self.uri, "top": top}


def predict(
    run: Run,
    classify: Callable[[np.ndarray], np.ndarray],
    uris: Sequence[str],
    storage_options: Mapping[str, str],
    top: int,
) -> Iterator[Prediction]:
    """Classifies images with the pixels, base and head of a run.

    Args:
      run: that trained the head; has the pixels' spec and the classes.
      classify: the result of `classifier_of`.
      uris: images.
      storage_options: for their file system.
      top: the largest number of classes per image.

    Yields:
      One prediction per image, in order, also for bad images.
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
    run: Run,
    head_id: str,
    tell: Callable[[str], None],
    trust_model: bool = False,
    temperature: float = 1.0,
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from uint8 (n, H, W, 3) to float64 (n, classes) probabilities.

    Args:
      run: holds the base and the head.
      head_id: of the head.
      tell: takes a line for the user if this machine's numerics differ from the store's.
      trust_model: whether Lambda layers of the base may run.
      temperature: of the probabilities; 1 leaves them unscaled.
    """
    import_keras()
    spec = run.spec
    logits_of = forward(logits_model(run.load_head(head_id)))
    engine = serving_engine(StoredBase(run.storage, spec, trust_model), BATCH_SIZE)
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
        logits = logits_of(features)
        if run.multi_label:
            # A sigmoid for each class; tanh cannot overflow.
            return (1 + np.tanh(logits.astype(np.float64) / 2)) / 2
        return np.exp(log_probabilities(logits / temperature))

    return classify


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
