"""How pixels become the numbers that a base takes: a mean and a deviation for each colour.

A store's spec holds a name where Keras has one for the numbers (``torch`` for those of ImageNet),
and otherwise the numbers themselves, so two spellings of one preprocessing are one identity.
"""

from __future__ import annotations

from dataclasses import dataclass

from featurestore.errors import UsageError
from featurestore.fields import SCALED

Colours = tuple[float, float, float]
# Names for --preprocess beside Keras's own, as (mean, deviation) of values from 0 to 1.
_HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
NAMED: dict[str, tuple[Colours, Colours]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "siglip": _HALF,
    "half": _HALF,
}


@dataclass(frozen=True)
class Scaling:
    """(pixels - mean) / deviation.

    Attributes:
      mean: of red, green and blue, or of blue, green and red if `reverses`; levels of 0 to 255.
      deviation: the same.
      reverses: whether the base takes blue, green, red.
    """

    mean: Colours = (0.0, 0.0, 0.0)
    deviation: Colours = (1.0, 1.0, 1.0)
    reverses: bool = False


# Keras's, of `keras.applications.imagenet_utils.preprocess_input`.
_KERAS = {
    "none": Scaling(),
    "unit": Scaling(deviation=(255.0, 255.0, 255.0)),
    "tf": Scaling((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "caffe": Scaling((103.939, 116.779, 123.68), reverses=True),
    "torch": Scaling((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}


def mode_of(mean: Colours, deviation: Colours) -> str:
    """Returns the spec's text for a preprocessing.

    Args:
      mean: of red, green and blue, for values from 0 to 1.
      deviation: the same; not 0.

    Example:
      >>> mode_of((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), mode_of((0, 0, 0), (1, 1, 0.5))
      ('tf', 'scaled:mean=0,0,0;deviation=1,1,0.5')
    """
    for name, known in _KERAS.items():
        pairs = zip((*mean, *deviation), (*known.mean, *known.deviation), strict=True)
        if not known.reverses and all(abs(ours - its / 255) < 1e-7 for ours, its in pairs):
            return name
    sides = [",".join(f"{value:.9g}" for value in values) for values in (mean, deviation)]
    return f"{SCALED}:mean={sides[0]};deviation={sides[1]}"


def scaling_of(mode: str) -> Scaling:
    """Returns the numbers of a preprocessing.

    Args:
      mode: what `mode_of` gave, or one of Keras's names.

    Raises:
      UsageError: for numbers that cannot be read, as in a spec that was edited.

    Example:
      >>> scaling_of("scaled:mean=0,0,0;deviation=1,1,0.5").deviation
      (255.0, 255.0, 127.5)
    """
    if mode in _KERAS:
        return _KERAS[mode]
    try:
        mean, deviation = (
            tuple(float(value) * 255 for value in side.split("=")[1].split(","))
            for side in mode.removeprefix(f"{SCALED}:").split(";")
        )
        (r, g, b), (x, y, z) = mean, deviation
    except (ValueError, IndexError) as error:
        raise UsageError(f"--preprocess: cannot read {mode!r}") from error
    return Scaling((r, g, b), (x, y, z))
