"""Streams a store of embeddings into tf.data and fits a Keras model of your own on it.

python examples/to_keras.py STORE
"""

import sys
from collections.abc import Iterator

import numpy as np

from featurestore import FeatureStore, open_store


def class_names(store: FeatureStore) -> list[str]:
    """Returns the labels that training rows have, sorted."""
    batches = store.scan(["labels"], splits=["train"])
    return sorted({names[0] for batch in batches for names in batch["labels"] if len(names)})


def rows(
    store: FeatureStore, split: str, classes: list[str]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields batches: features float32 (n, d) and class numbers int64 (n,)."""
    number = {name: index for index, name in enumerate(classes)}
    for batch in store.scan(["features", "labels"], splits=[split], labels=classes):
        labels = np.array([number[names[0]] for names in batch["labels"]], np.int64)
        yield batch["features"].astype(np.float32), labels


def main() -> None:
    """Fits a model for five epochs and prints its accuracy on the validation rows."""
    import keras
    import tensorflow as tf

    store = open_store(sys.argv[1])
    classes = class_names(store)
    signature = (
        tf.TensorSpec((None, *store.spec.feature_shape), tf.float32),
        tf.TensorSpec((None,), tf.int64),
    )

    def dataset(split: str) -> tf.data.Dataset:
        stored = tf.data.Dataset.from_generator(
            lambda: rows(store, split, classes), output_signature=signature
        )
        # The store's own batches are as long as its row groups allow; a model wants even ones.
        return stored.unbatch().shuffle(10_000, seed=0).batch(64).prefetch(tf.data.AUTOTUNE)

    inputs = keras.Input(store.spec.feature_shape)
    outputs = keras.layers.Dense(len(classes), activation="softmax")(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, outputs)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(dataset("train"), epochs=5, verbose=0)
    loss, accuracy = model.evaluate(dataset("validation"), verbose=0)
    print(f"{len(classes)} classes, validation accuracy {accuracy:.3f}, loss {loss:.3f}")


if __name__ == "__main__":
    main()
