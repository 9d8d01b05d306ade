"""Streams a store of embeddings into tf.data and fits a Keras model of your own on it.

python examples/to_keras.py STORE
"""

import sys
from itertools import count

from featurestore import open_store
from featurestore.epochs import EpochOptions, Epochs


def main() -> None:
    """Fits a model for five epochs and prints its accuracy on the validation rows."""
    import keras
    import tensorflow as tf

    store = open_store(sys.argv[1])
    train = Epochs.of(store, EpochOptions(splits=["train"]))
    held_out = Epochs.of(
        store, EpochOptions(splits=["validation"], classes=train.classes, shuffle=False)
    )
    signature = (
        tf.TensorSpec((None, *store.spec.feature_shape), store.spec.read_dtype),
        tf.TensorSpec((None,), tf.int64),
    )

    def dataset(rows: Epochs) -> tf.data.Dataset:
        epochs = count()  # Keras asks for a new iterator every epoch

        def batches():
            return rows.batches(64, next(epochs))

        return tf.data.Dataset.from_generator(batches, output_signature=signature).prefetch(2)

    inputs = keras.Input(store.spec.feature_shape)
    outputs = keras.layers.Dense(len(train.classes), activation="softmax")(
        keras.layers.Flatten()(inputs)
    )
    model = keras.Model(inputs, outputs)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(dataset(train), epochs=5, verbose=0)
    loss, accuracy = model.evaluate(dataset(held_out), verbose=0)
    print(f"{len(train.classes)} classes, validation accuracy {accuracy:.3f}, loss {loss:.3f}")


if __name__ == "__main__":
    main()
