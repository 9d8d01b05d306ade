"""A fine-tuning run: layers of a base are trained together with the head of another run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from classifier.features.division import Division, divide
from classifier.heads.data import prepare_data
from classifier.heads.network.fit import Network
from classifier.heads.options import TrainOptions
from classifier.heads.stacked.checkpoint import SECONDS, Checkpoint
from classifier.runs.headfile import head_file
from classifier.runs.run import FINETUNED, Run, history_file
from classifier.training.composition import Composed, compose
from classifier.training.run import Fitted, decisive_of, tell_place, write_run
from classifier.training.trials import keep_head, progress_lines
from featurestore.errors import UsageError
from featurestore.io.storage import Storage

if TYPE_CHECKING:
    from featurestore import FeatureStore

# A head has converged if the last tenth of its epochs lowered its validation loss by less.
STILL_FALLING = 0.05
NO_BETTER = (
    "note: no epoch had a lower validation loss than the head it began with; lower --lr, or "
    "unfreeze fewer layers"
)


@dataclass(frozen=True)
class Tuning:
    """What is fine-tuned.

    Attributes:
      run: that trained the head.
      head_id: of the head.
      unfreeze: ``all``, a number of layers from the end of the base, or the first layer.
      trust_model: whether Lambda layers of the base may run.
      checkpoint_seconds: at least between two checkpoints.
    """

    run: Run
    head_id: str
    unfreeze: str
    trust_model: bool = False
    checkpoint_seconds: float = SECONDS

    @property
    def name(self) -> str:
        """The head_id of the fine-tuned head."""
        return f"{self.head_id.removesuffix('-finetuned')}-finetuned"

    @property
    def spelling(self) -> str:
        """The head in words."""
        head, _, _ = self.run.config.heads[self.head_id].partition(" with --unfreeze ")
        return f"{head} with --unfreeze {self.unfreeze}"


def require_ready(tuning: Tuning, allow_unconverged: bool) -> None:
    """Refuses a head from which fine-tuning would not begin well.

    Raises:
      UsageError: for a nearest-neighbour head, and for one that was still improving, unless it is
        allowed or the base stays frozen.
    """
    run, head_id = tuning.run, tuning.head_id
    if run.config.heads[head_id].startswith("knn"):
        raise UsageError(
            f"--run: {head_id} holds training rows, not weights, so it cannot be trained on; give "
            "--head_id another head"
        )
    if allow_unconverged or tuning.unfreeze == "0":
        return
    try:
        losses = json.loads(run.storage.read(history_file(head_id)))["val_loss"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"--run: {run.url}/{history_file(head_id)} cannot be read, so it is unknown whether "
            "the head has converged; add --allow_unconverged"
        ) from error
    exact = next(row for row in run.leaderboard() if row["head_id"] == head_id)["lr"] is None
    losses = [loss for loss in losses if loss is not None]
    last = max(1, len(losses) // 10)
    if exact or (losses[:-last] and min(losses) > (1 - STILL_FALLING) * min(losses[:-last])):
        return
    before = f"from {min(losses[:-last]):.4f} " if losses[:-last] else ""
    raise UsageError(
        f"--run: {head_id} was still improving when its training ended: its validation loss fell "
        f"{before}to {min(losses):.4f} in the last {last} of {len(losses)} epochs. Such a head "
        "would spoil the weights of the base; train it longer, or add --allow_unconverged"
    )


def division_of(run: Run, store: FeatureStore) -> Division:
    """Divides a store's rows as those of a run were divided.

    Raises:
      UsageError: when its classes or validation rows are not the run's.
    """
    validation = run.config.options.get("validation", "auto")
    division = divide(store, "on" if run.multi_label else "off", validation)
    if division.classes != run.classes:
        raise UsageError(
            f"--store: the training rows of {store.url} have {len(division.classes)} classes, and "
            f"the run at {run.url} has {len(run.classes)}, or others; extract the same images with "
            "the same labels"
        )
    if division.carve != run.config.carve:
        raise UsageError(
            f"--store: {store.url} does not have the validation rows of the run at {run.url}, so "
            "the head would be validated on rows that it learned from; extract the same images "
            "with the same splits"
        )
    return division


def fine_tune(
    tuning: Tuning,
    store: FeatureStore,
    storage: Storage,
    division: Division,
    options: TrainOptions,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Trains layers of a base with a head, and writes the run.

    Args:
      tuning: the head and the layers.
      store: of pixels, or cut at a bottleneck of the base.
      storage: the new run's folder, prepared.
      division: which rows train and validate.
      options: hyperparameters.
      tell: takes lines for the user.

    Returns:
      The summary that is written as ``summary.json``.
    """
    head = tuning.run.load_head(tuning.head_id)
    composed = compose(tuning.run, head, store, tuning.unfreeze, tuning.trust_model)
    _tell_layers(composed, tuning.run, tell)

    def fit(replace_older: Callable[[], None]) -> Fitted:
        decisive = _decisive(tuning, store, division, options)
        checkpoint = Checkpoint(storage, decisive, tell, tuning.checkpoint_seconds)
        data = prepare_data(store, division, options)
        place = tell_place(data, options, tell)
        trial = next(iter(options.trials().values()))
        network = Network(composed.head, trial, options, data)
        loss, accuracy = network.validate()
        tell(f"before: validation accuracy {accuracy:.4f}, loss {loss:.4f}")
        trained = network.fit(tuning.name, progress_lines(options.epochs, tell), checkpoint)
        replace_older()
        record = keep_head(storage, tuning.name, trial, trained, options.epochs, tell)
        record["head"] = tuning.spelling
        if record["val_loss"] >= loss:
            tell(NO_BETTER)
        tuned = {
            **_layers_record(tuning, composed),
            "trained": record["parameters"],
            "epoch_seconds": round(network.last_seconds, 3),
            "before": {"val_accuracy": accuracy, "val_loss": loss},
        }
        heads = {tuning.name: tuning.spelling}
        return Fitted([record], [], place, heads, {FINETUNED: tuned})

    return write_run(store, storage, division, options, tell, fit)


def _layers_record(tuning: Tuning, composed: Composed) -> dict[str, Any]:
    return {
        "run": tuning.run.url,
        "head_id": tuning.head_id,
        "cut": composed.cut,
        "unfreeze": tuning.unfreeze,
        "first": composed.unfrozen[0] if composed.unfrozen else None,
        "layers": len(composed.unfrozen),
    }


def _decisive(
    tuning: Tuning, store: FeatureStore, division: Division, options: TrainOptions
) -> dict[str, Any]:
    """Returns what decides the result of a fine-tuning."""
    weights = tuning.run.storage.read(head_file(tuning.head_id))
    return {
        **decisive_of(store, division, options),
        "start": hashlib.sha256(weights).hexdigest(),
        "base": tuning.run.spec.identity_hash,
        "unfreeze": tuning.unfreeze,
    }


def _tell_layers(composed: Composed, run: Run, tell: Callable[[str], None]) -> None:
    start = "on pixels" if composed.cut == "pixels" else f"behind {composed.cut}"
    trained = "none of them trained"
    if composed.unfrozen:
        trained = (
            f"the last {len(composed.unfrozen)} of the base trained, from {composed.unfrozen[0]}, "
            f"with {composed.trained:,} parameters"
        )
    tell(f"{run.spec.base.model} {start}: {composed.layers} layers, {trained}")
