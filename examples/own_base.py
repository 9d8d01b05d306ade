"""Extracts features with a conv base of your own: any Keras model from images to a map will do.

python examples/own_base.py PHOTOS FOLDER
"""

import sys
from pathlib import Path

import keras

from featurestore import open_store
from pipelines.extract import run


def build_base() -> keras.Model:
    """Returns a small base; yours would come trained, from `keras.saving.load_model`."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((64, 64, 3))
    # What the pixels need is part of the model, so that nobody can forget it.
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    for filters in (16, 32, 64):
        x = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = keras.layers.MaxPooling2D()(x)
    return keras.Model(inputs, x, name="my_base")


def main() -> None:
    """Saves the base, extracts with it, and prints what is in the store."""
    photos, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    build_base().save(folder / "my_base.keras")
    # Without a family that is known, `--preprocess none` says that the model does it itself.
    flags = ["--model", str(folder / "my_base.keras"), "--preprocess", "none", "--pooling", "avg"]
    run(["--input", photos, "--output", str(folder / "store"), *flags, "--runner=DirectRunner"])
    store = open_store(str(folder / "store"))
    print(
        f"{store.ledger().rows} rows of {store.spec.feature_shape} from {store.spec.base.layer!r}"
    )


if __name__ == "__main__":
    main()
