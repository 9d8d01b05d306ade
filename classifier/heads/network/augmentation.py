"""An augmentation as Keras's own layers, which draw a fresh view of every image in every epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from classifier.heads.spec import HeadSpec
from classifier.pixels.views import Step, parse_augment
from classifier.runtime import import_keras
from featurestore.errors import UsageError

if TYPE_CHECKING:
    import keras


def check_augment(text: str, is_pixels: bool, heads: Sequence[HeadSpec] = ()) -> None:
    """Refuses an augmentation that cannot be drawn in each epoch.

    Args:
      text: of `--augment`; "" for none.
      is_pixels: whether the store holds pixels.
      heads: that will be trained.

    Raises:
      UsageError: for a store of features, for heads that Keras does not train, for a crop, and what
        `classifier.pixels.views.parse_augment` raises.
    """
    if not text:
        return
    if not is_pixels:
        raise UsageError(
            f"--augment {text}: transforms need pixels, and this store holds features; use a store "
            "of --model pixels, or extract this one with --views"
        )
    for head in heads:
        if not head.is_network:
            raise UsageError(
                f"--augment {text}: {head} takes each row as it is stored; leave it out of the "
                "run, or extract with --views"
            )
    for step in parse_augment(text):
        if step.name == "crop":
            # Keras's RandomCrop cuts the centre out in inference, so a head would see other pixels.
            raise UsageError(
                f"--augment {step}: a crop cannot be drawn afresh in each epoch; use zoom, or "
                "extract stored --views"
            )


def augmentation(text: str, seed: int) -> keras.Sequential:
    """Builds the layers of an augmentation.

    Args:
      text: as `classifier.pixels.views.parse_augment` takes it, such as ``flip,rotation=0.1``.
      seed: of the first layer; each further one takes the next number.

    Returns:
      A model from float32 (n, H, W, channels) pixels of 0 to 255 to the same shape. It changes
      nothing in inference.
    """
    layers = [_layer(step, seed + number) for number, step in enumerate(parse_augment(text))]
    return import_keras().Sequential(layers, name="augmentation")


def _layer(step: Step, seed: int) -> Any:
    layers = import_keras().layers
    if step.name == "flip":
        return layers.RandomFlip(step.mode, seed=seed)
    ranges = [(factor.low, factor.high) for factor in step.factors]
    if step.name == "contrast":
        return layers.RandomContrast(ranges[0][1], seed=seed)
    kinds = {
        "rotation": layers.RandomRotation,
        "zoom": layers.RandomZoom,
        "translation": layers.RandomTranslation,
    }
    return kinds[step.name](*ranges, seed=seed)
