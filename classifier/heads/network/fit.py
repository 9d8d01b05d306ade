"""Trains one Keras head over a stream of rows, epoch by epoch.

The rules are those of `classifier.heads.stacked`: an epoch's order depends on seed and epoch only,
a history holds the cross entropy without penalties and class weights, the weights of the best epoch
by validation loss are kept, and a checkpoint resumes an interrupted training.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.features.order import Rows
from classifier.heads.data import TrainedHead, TrainingData
from classifier.heads.head import logits_model
from classifier.heads.network.augmentation import augmentation
from classifier.heads.options import TrainOptions, Trial
from classifier.heads.stacked.checkpoint import Checkpoint
from classifier.heads.stacked.fit import OnEpoch, diverged
from classifier.heads.stacked.progress import Progress
from classifier.heads.stacked.stream import Batch, ahead
from classifier.runtime import import_keras
from featurestore.errors import RunFailed

if TYPE_CHECKING:
    import keras

# The layer of a fine-tuned head that holds the layers of the base.
TAIL = "tail"


class Network:
    """A head in training.

    Attributes:
      progress: its history and best epoch.
      seconds: spent on epochs, including those before a resume.
      last_seconds: those of the last epoch; Keras compiles in the first one.
    """

    def __init__(
        self, head: keras.Model, trial: Trial, options: TrainOptions, data: TrainingData
    ) -> None:
        """Compiles the head; its weights are those that it has.

        Args:
          head: from features to probabilities.
          trial: learning rate, optimizer, seed, label smoothing.
          options: augmentation, class weights and patience.
          data: that it will be trained on.
        """
        keras = import_keras()
        self.progress = Progress(options.patience)
        self.seconds = self.last_seconds = 0.0
        self._head, self._trial, self._options, self._data = head, trial, options, data
        self._several = data.division.multi_label
        self._class_weights = options.class_weights(data.division.train_counts)
        self._outputs = head.output_shape[-1]
        stages = stages_of(head)
        if options.augment:
            stages = [(augmentation(options.augment, trial.seed), True), *stages]
        self._model = _chain(stages)
        self._model(keras.Input(head.input_shape[1:], dtype="float32"))
        self._optimizer = _optimizer(trial)
        loss, metrics = _objective(self._several or self._outputs == 1, trial.label_smoothing)
        # On the CPU, XLA makes convolutions slower.
        self._model.compile(self._optimizer, loss, metrics=metrics, jit_compile=False)
        self._optimizer.build(self._model.trainable_variables)
        self._best: list[np.ndarray] = []

    def start(self) -> None:
        """Begins with the head's own weights."""

    def state(self) -> tuple[dict[str, Any], list[list[np.ndarray]]]:
        """Returns a record fit for JSON, and arrays, from which training can resume."""
        record = {"progress": asdict(self.progress), "seconds": self.seconds}
        variables = (self._model.variables, self._optimizer.variables)
        return record, [*([np.asarray(one) for one in part] for part in variables), self._best]

    def restore(self, record: Mapping[str, Any], arrays: Sequence[list[np.ndarray]]) -> None:
        """Sets the state that `state` returned.

        Raises:
          KeyError, ValueError: if something is missing.
        """
        weights, slots, best = arrays
        progress = Progress(**record["progress"])
        for variables, values in (
            (self._model.variables, weights),
            (self._optimizer.variables, slots),
        ):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
        self.progress, self.seconds, self._best = progress, record["seconds"], best

    def _train_epoch(self, train: Iterator[Rows]) -> None:
        started = time.perf_counter()
        sums = np.zeros(3)
        for block in ahead((rows.features, rows.labels) for rows in train):
            for features, labels in block:
                weights = None
                if self._class_weights is not None:
                    weights = np.array(self._class_weights, np.float32)[labels]
                arrays = self._arrays((features, labels))
                sums += _sums(
                    self._model.train_on_batch(*arrays, weights, return_dict=True), labels
                )
        if self.progress.add([*_means(sums), *self.validate()]):
            self._best = self._head.get_weights()
        self.last_seconds = time.perf_counter() - started
        self.seconds += self.last_seconds

    def validate(self) -> tuple[float, float]:
        """Returns (cross entropy, accuracy) of the validation rows."""
        sums = np.zeros(3)
        for rows in _pieces(self._data.validation(), self._options.batch_size):
            arrays = self._arrays((rows.features, rows.labels))
            sums += _sums(self._model.test_on_batch(*arrays, return_dict=True), rows.labels)
        return _means(sums)

    def _arrays(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Returns float32 features and targets, (n, outputs) of 0 and 1."""
        features, labels = batch
        if self._several:
            targets = labels.astype(np.float32)
        elif self._outputs == 1:
            targets = labels[:, None].astype(np.float32)
        else:
            targets = np.eye(self._outputs, dtype=np.float32)[labels]
        return features.astype(np.float32), targets

    def fit(self, head_id: str, on_epoch: OnEpoch, checkpoint: Checkpoint) -> TrainedHead:
        """Trains the head for the epochs of a run.

        Args:
          head_id: of the head; names its checkpoint.
          on_epoch: called after every epoch.
          checkpoint: keeps the state.

        Raises:
          RunFailed: if it diverged.
        """
        options, data = self._options, self._data
        for epoch in range(checkpoint.restore(head_id, self), options.epochs):
            if self.progress.ended:
                break
            self._train_epoch(data.train(options.seed[0], epoch))
            on_epoch(epoch + 1, {head_id: self.progress})
            checkpoint.save(head_id, epoch + 1, self)
        progress = self.progress
        if not progress.best_epoch:
            raise RunFailed(diverged(self._trial))
        self._head.set_weights(self._best)
        rate = data.division.rows[0] * progress.epochs / max(self.seconds, 1e-9)
        return TrainedHead(
            progress.history,
            progress.best_epoch,
            self.seconds,
            rate,
            self._head,
            self._trial.l2 or 0.0,
        )


def stages_of(head: keras.Model) -> list[tuple[keras.Model, bool]]:
    """Returns the models from features to logits, and whether each has a mode for training.

    The layers of a base have none: their batch normalisation keeps its statistics, and nothing in
    them is dropped.
    """
    if TAIL in {layer.name for layer in head.layers}:
        return [(head.get_layer(TAIL), False), (head.get_layer("logits"), True)]
    return [(logits_model(head), True)]


def _chain(stages: Sequence[tuple[keras.Model, bool]]) -> keras.Model:
    """Joins stages for training.

    A functional model would not do: in training it hands ``training=True`` to every layer, also to
    one that was called with ``training=False``.
    """

    class Chain(import_keras().Model):  # type: ignore[misc]
        """Runs stages, each in its mode."""

        def __init__(self) -> None:
            super().__init__(name="training")
            self.stages = [stage for stage, _ in stages]

        def call(self, features: Any, training: bool = False) -> Any:
            for stage, has_mode in stages:
                features = stage(features, training=training and has_mode)
            return features

    return Chain()


def _sums(figures: Mapping[str, Any], labels: np.ndarray) -> np.ndarray:
    """Returns what the means of a batch add up to: cross entropy, accuracy, rows."""
    # Keras resets its metrics before every batch.
    return np.array([figures["cross_entropy"], figures["accuracy"], 1.0], float) * len(labels)


def _means(sums: np.ndarray) -> tuple[float, float]:
    loss, hits, rows = sums
    return loss / rows, hits / rows


def _optimizer(trial: Trial) -> Any:
    optimizers = import_keras().optimizers
    if trial.optimizer == "sgd":
        return optimizers.SGD(trial.lr, momentum=trial.momentum)
    kinds = {"adam": optimizers.Adam, "rmsprop": optimizers.RMSprop}
    return kinds[trial.optimizer](trial.lr)


def _objective(sigmoid: bool, smoothing: float) -> tuple[Any, list[Any]]:
    """Returns the loss of logits, and the figures of a history."""
    keras = import_keras()
    losses, ops = keras.losses, keras.ops
    kind = losses.BinaryCrossentropy if sigmoid else losses.CategoricalCrossentropy
    entropy = losses.binary_crossentropy if sigmoid else losses.categorical_crossentropy

    def cross_entropy(targets: Any, logits: Any) -> Any:
        return entropy(targets, logits, from_logits=True)

    def accuracy(targets: Any, logits: Any) -> Any:
        if sigmoid:
            return ops.mean(ops.cast((logits > 0) == (targets > 0), "float32"), axis=-1)
        return ops.cast(ops.argmax(logits, -1) == ops.argmax(targets, -1), "float32")

    return kind(from_logits=True, label_smoothing=smoothing), [cross_entropy, accuracy]


def _pieces(blocks: Iterable[Rows], size: int) -> Iterator[Rows]:
    """Cuts blocks of rows, because a network needs far more memory for a row than the row has."""
    for rows in blocks:
        for start in range(0, len(rows.labels), size):
            yield rows[start : start + size]
