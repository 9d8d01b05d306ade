"""Training of heads: the data they share, one head's fit, and the ranking.

History is of the pure cross entropy, without the L2 penalty and without class weights, so that
heads of different settings are comparable and an evaluation of the saved head repeats the best
epoch's figure.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.dataset import (
    SIDES,
    feature_dataset,
    labelled_batches,
    load_rows,
)
from classifier.division import Division, class_weights
from classifier.heads import (
    HeadSpec,
    Moments,
    Standard,
    build_head,
    logits_model,
    outputs_for,
)
from classifier.options import TrainOptions, Trial
from classifier.runtime import import_keras
from classifier.selection import Selection
from classifier.shuffling import Order, Rows
from featurestore.errors import RunFailed

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from featurestore import FeatureStore

METRICS = ("loss", "accuracy", "val_loss", "val_accuracy")


@dataclass(frozen=True)
class TrainingData:
    """What every head of a run is fitted on.

    Attributes:
      train: (float32 features, int64 labels) batches; call it with the seed of the order.
      validation: the same, in stored order.
      feature_shape: of one row.
      standard: statistics of the training rows, None for none.
      division: which rows these are.
      in_memory: whether features were loaded once or are streamed every epoch.
      rows: called with ``train`` or ``validation``, gives blocks of rows in stored order.
    """

    train: Callable[[int], tf.data.Dataset]
    validation: Callable[[], tf.data.Dataset]
    feature_shape: tuple[int, ...]
    standard: Standard | None
    division: Division
    in_memory: bool
    rows: Callable[[str], Iterator[Rows]]


@dataclass(frozen=True)
class TrainedHead:
    """A fitted head at its best epoch.

    Attributes:
      model: features -> probabilities, with the best epoch's weights.
      history: metric name -> one value an epoch.
      best_epoch: counted from 1.
      seconds: the fit took.
      rows_per_second: training rows through the fit, all epochs.
      l2: its penalty; None for a head without.
      penalties: of an exact head: figures by penalty, else empty.
    """

    model: keras.Model
    history: Mapping[str, Sequence[float]]
    best_epoch: int
    seconds: float
    rows_per_second: float
    l2: float | None = None
    penalties: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def best(self) -> dict[str, float]:
        """Each metric at the best epoch."""
        return {name: values[self.best_epoch - 1] for name, values in self.history.items()}


def prepare_data(
    store: FeatureStore,
    division: Division,
    options: TrainOptions,
) -> TrainingData:
    """Loads features once when they fit `options.memory`, and measures what heads standardise by.

    Args:
      store: to read.
      division: which rows train and validate.
      options: of the run.
    """
    classes = division.classes
    counts = int(division.train_counts.sum()), int(division.validation_counts.sum())
    stored = division.stored_rows, counts[1]
    in_memory = sum(stored) * store.spec.feature_bytes <= options.memory
    sides = (division.train, division.validation)
    sources: list[FeatureStore | Rows] = [store, store]
    if in_memory:
        sources = [load_rows(store, classes, *pair) for pair in zip(sides, stored, strict=True)]

    def blocks(side: str) -> Iterator[Rows]:
        number = SIDES.index(side)
        return _blocks(sources[number], classes, sides[number])

    standard = None
    if options.standardise == "channel":
        moments = Moments(store.spec.feature_shape[-1])
        for block in blocks("train"):
            moments.update(block.features)
        standard = moments.standard()

    def dataset(side: int, seed: int | None = None) -> tf.data.Dataset:
        batch_size = options.batch_size if side == 0 else max(options.batch_size, 1024)
        built = feature_dataset(
            sources[side],
            classes,
            sides[side],
            batch_size=batch_size,
            order=None if seed is None else Order(seed, store.spec.views),
            pool_bytes=options.memory,
        )
        return _as_keras_wants(built, -(-counts[side] // batch_size), len(classes) == 2)

    train, validation = partial(dataset, 0), partial(dataset, 1)
    shape = store.spec.feature_shape
    return TrainingData(train, validation, shape, standard, division, in_memory, blocks)


def _as_keras_wants(dataset: tf.data.Dataset, steps: int, binary: bool) -> tf.data.Dataset:
    import tensorflow as tf

    if binary:
        # Keras's binary cross entropy wants labels shaped as its output is.
        dataset = dataset.map(lambda features, labels: (features, labels[:, None]))
    # Keras warns of data that ends unannounced; chunks committed since the count wait.
    return dataset.take(steps).apply(tf.data.experimental.assert_cardinality(steps))


def _blocks(
    source: FeatureStore | Rows, classes: Sequence[str], selection: Selection
) -> Iterator[Rows]:
    if not isinstance(source, Rows):
        yield from labelled_batches(source, classes, selection)
        return
    for start in range(0, len(source.labels), 1024):
        yield source[start : start + 1024]


def train_head(
    trial: Trial,
    data: TrainingData,
    options: TrainOptions,
    on_epoch: Callable[[int, Mapping[str, float]], None] | None = None,
) -> TrainedHead:
    """Fits one head and puts the weights of its best epoch back.

    Args:
      trial: head, learning rate and penalty.
      data: to fit on.
      options: of the run.
      on_epoch: told the epoch, counted from 1, and its metrics.

    Raises:
      RunFailed: when the validation loss was never finite.
    """
    keras, spec, lr, l2 = import_keras(), trial.head, trial.lr, trial.l2
    assert isinstance(spec, HeadSpec) and lr is not None and l2 is not None
    keras.utils.set_random_seed(options.seed)
    outputs = outputs_for(data.division.classes)
    model = build_head(
        spec, data.feature_shape, outputs, options.seed, standard=data.standard, l2=l2
    )
    trained = logits_model(model)
    _compile(keras, trained, lr, options.optimizer)
    keeper = _best_epoch_keeper(keras, on_epoch)
    balanced = options.class_weight == "balanced"
    weights = class_weights(data.division.train_counts) if balanced else None
    started = time.perf_counter()
    trained.fit(
        data.train(options.seed),
        validation_data=data.validation(),
        epochs=options.epochs,
        class_weight=weights,
        callbacks=[keeper],
        shuffle=False,
        verbose=0,
    )
    seconds = time.perf_counter() - started
    if keeper.best_epoch == 0:
        raise RunFailed(
            f"diverged: its validation loss was never finite with --lr {lr:g}; lower --lr, or "
            "leave --standardise at channel"
        )
    trained.set_weights(keeper.best_weights)
    rows = int(data.division.train_counts.sum()) * options.epochs
    return TrainedHead(model, keeper.history, keeper.best_epoch, seconds, rows / seconds, l2)


def _compile(keras, model, lr: float, optimizer: str) -> None:
    """Compiles a logits model; both losses take int class indices as labels."""
    optimizers = {
        "adam": keras.optimizers.Adam,
        "rmsprop": keras.optimizers.RMSprop,
        "sgd": partial(keras.optimizers.SGD, momentum=0.9),
    }
    if model.output_shape[-1] == 1:
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        metric = keras.metrics.BinaryCrossentropy(from_logits=True, name="crossentropy")
        accuracy = keras.metrics.BinaryAccuracy(threshold=0.0, name="accuracy")
    else:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        metric = keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="crossentropy")
        accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    # XLA would take seconds to compile a step that runs for a fraction of a millisecond.
    model.compile(
        optimizer=optimizers[optimizer](lr),
        loss=loss,
        weighted_metrics=[],
        metrics=[metric, accuracy],
        jit_compile=False,
    )


def _best_epoch_keeper(keras, on_epoch):
    """Returns a callback that gathers history and the weights at the lowest validation loss.

    Keras's EarlyStopping takes a first epoch of NaN for the best and never leaves it.
    """

    base: Any = keras.callbacks.Callback

    class BestEpochKeeper(base):
        def __init__(self) -> None:
            super().__init__()
            self.history: dict[str, list[float]] = {name: [] for name in METRICS}
            self.best_epoch = 0
            self.best_weights: list[np.ndarray] = []

        def on_epoch_end(self, epoch, logs=None):
            metrics = {
                "loss": logs["crossentropy"],
                "accuracy": logs["accuracy"],
                "val_loss": logs["val_crossentropy"],
                "val_accuracy": logs["val_accuracy"],
            }
            for name, value in metrics.items():
                self.history[name].append(float(value))
            earlier = self.history["val_loss"][self.best_epoch - 1] if self.best_epoch else math.inf
            if metrics["val_loss"] < earlier:
                self.best_epoch = epoch + 1
                self.best_weights = self.model.get_weights()
            if on_epoch:
                on_epoch(epoch + 1, metrics)

    return BestEpochKeeper()


def leaderboard(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Ranks heads by validation loss, lowest first; ties go to fewer parameters, then the name."""
    ranked = sorted(records, key=lambda r: (r["val_loss"], r["parameters"], r["head_id"]))
    return [{"rank": rank, **record} for rank, record in enumerate(ranked, 1)]
