"""Draws augmented views of an image.

``flip,rotation=0.1,zoom=0.2`` names Keras's layers with their factors, applied in this order. A
view depends on (seed, content hash, view) alone. Its random numbers come from a Philox generator
keyed by the sha256 of these three, so they are the same on every machine, in every batch and
process, and with every release of TensorFlow. Only the raw bits of NumPy's generator are used,
which NumPy keeps stable (NEP 19); its distributions may change.

Another way of drawing would change the views of every store that grows. So steps may be added, but
never changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from classifier.pixels import warp as warping
from featurestore.errors import UsageError, unknown_choice
from featurestore.labels.splits import split_of
from featurestore.spec import StoreSpec
from featurestore.units import parse_sides, shortest

BOOK = "flip,rotation=0.1,zoom=0.2"
FLIPS = ("horizontal", "vertical")
# Uniform in [0, 1).
Draw = Callable[[], float]


@dataclass(frozen=True)
class Factor:
    """A range from which numbers are drawn uniformly.

    Attributes:
      low: inclusive.
      high: exclusive.
    """

    low: float
    high: float

    def draw(self, uniform: Draw) -> float:
        """Draws a number."""
        return self.low + (self.high - self.low) * uniform()

    def __str__(self) -> str:
        if self.low == -self.high:
            return shortest(self.high)
        return f"{shortest(self.low)}:{shortest(self.high)}"


@dataclass(frozen=True)
class Step:
    """One transform with its factors, like Keras's layer of that name.

    Attributes:
      name: one of `LAYERS`.
      mode: the direction of a flip, one of `FLIPS`.
      factors: one for rotation and contrast; for zoom and translation the height's, and the width's
        where it is drawn separately.
      size: the size of a crop, (height, width) in pixels.
    """

    name: str
    mode: str = ""
    factors: tuple[Factor, ...] = ()
    size: tuple[int, int] = (0, 0)

    def __str__(self) -> str:
        if self.name == "flip":
            return self.name if self.mode == FLIPS[0] else f"flip={self.mode}"
        if self.name == "crop":
            return f"crop={self.size[0]}x{self.size[1]}"
        factors = self.factors
        if self.name == "translation" and factors[0] == factors[1]:
            factors = factors[:1]
        return f"{self.name}={'x'.join(map(str, factors))}"

    def apply(self, image: np.ndarray, uniform: Draw) -> np.ndarray:
        """Draws the step's random numbers and transforms an image.

        Args:
          image: float32 (H, W, 3), levels from 0 to 255.
          uniform: draws a number.

        Returns:
          float32 (H, W, 3).
        """
        if self.name == "flip":
            turned = image[:, ::-1] if self.mode == FLIPS[0] else image[::-1]
            return turned if uniform() <= 0.5 else image
        if self.name == "crop":
            return self._cropped(image, uniform)
        drawn = [factor.draw(uniform) for factor in self.factors]
        if self.name == "rotation":
            return warping.rotated(image, drawn[0])
        if self.name == "zoom":
            # Without a factor for the width, the aspect ratio stays.
            return warping.zoomed(image, 1 + drawn[0], 1 + drawn[-1])
        if self.name == "translation":
            return warping.shifted(image, *drawn)
        return warping.contrasted(image, 1 + drawn[0])

    def _cropped(self, image: np.ndarray, uniform: Draw) -> np.ndarray:
        height, width = image.shape[:2]
        top, left = (
            int(uniform() * (side - cut + 1))
            for side, cut in zip((height, width), self.size, strict=True)
        )
        part = image[top : top + self.size[0], left : left + self.size[1]]
        return warping.resized(part, height, width)


def _flip(value: str) -> Step:
    mode = value or FLIPS[0]
    if mode not in FLIPS:
        raise unknown_choice("--augment flip", mode, FLIPS)
    return Step("flip", mode)


def _crop(value: str) -> Step:
    size = parse_sides(value)
    if size is None or not all(size):
        raise UsageError(
            f"--augment crop: expected crop=160 or crop=150x160 (height x width in pixels), got "
            f"{value!r}"
        )
    return Step("crop", size=size)


def _rotation(value: str) -> Step:
    return Step("rotation", factors=(_factor("rotation", value, -1),))


def _zoom(value: str) -> Step:
    return Step("zoom", factors=tuple(_factor("zoom", part, -1) for part in value.split("x", 1)))


def _translation(value: str) -> Step:
    height, _, width = value.partition("x")
    parts = (height, width or height)
    return Step("translation", factors=tuple(_factor("translation", part, -1) for part in parts))


def _contrast(value: str) -> Step:
    return Step("contrast", factors=(_factor("contrast", value, 0),))


LAYERS: dict[str, Callable[[str], Step]] = {
    "flip": _flip,
    "rotation": _rotation,
    "zoom": _zoom,
    "translation": _translation,
    "contrast": _contrast,
    "crop": _crop,
}


def _factor(name: str, value: str, least: float) -> Factor:
    """Parses ``0.2``, or a range ``-0.3:-0.1`` where negative numbers are allowed."""
    try:
        numbers = [float(part) for part in value.split(":")]
    except ValueError:
        numbers = []
    ranges = (1, 2) if least < 0 else (1,)
    if len(numbers) not in ranges or not all(least <= number <= 1 for number in numbers):
        example = f"{name}=0.1" + (f" or {name}=-0.3:-0.1" if least < 0 else "")
        raise UsageError(
            f"--augment {name}: expected a factor from {least:g} to 1, as keras.layers takes it, "
            f"got {value!r}; for example {example}"
        )
    low, high = (-abs(numbers[0]), abs(numbers[0])) if len(numbers) == 1 else sorted(numbers)
    # -0.0 would be spelled otherwise than 0.0.
    return Factor(low + 0.0, high + 0.0)


def parse_augment(text: str) -> tuple[Step, ...]:
    """Parses an augmentation; its steps joined by commas are its canonical spelling.

    Args:
      text: steps in order, ``name`` or ``name=factor``, joined by commas.

    Raises:
      UsageError: for an unknown name, or a factor that Keras would not take.

    Example:
      >>> ",".join(map(str, parse_augment("flip=horizontal, rotation=.10,zoom=-0.2:0.2")))
      'flip,rotation=0.1,zoom=0.2'
    """
    steps = []
    for item in text.replace(" ", "").split(","):
        name, _, value = item.partition("=")
        if name not in LAYERS:
            raise unknown_choice("--augment", name, tuple(LAYERS))
        steps.append(LAYERS[name](value))
    return tuple(steps)


def canonical(text: str) -> str:
    """Returns the spelling of an augmentation by which stores are compared."""
    return ",".join(map(str, parse_augment(text)))


@dataclass(frozen=True)
class Views:
    """The views of a store's images.

    Attributes:
      count: the views of a training image; view 0 is the image itself.
      steps: the transforms for views 1 and up.
      seed: of their random numbers.
    """

    count: int = 1
    steps: tuple[Step, ...] = ()
    seed: int = 0

    @classmethod
    def of(cls, spec: StoreSpec) -> Views:
        """Returns the views of a store; raises what `parse` raises."""
        if spec.views == 1:
            return cls(seed=spec.seed)
        return cls.parse(spec.augment, spec.views, spec.seed, spec.pixels.image_size)

    @classmethod
    def parse(cls, augment: str, count: int, seed: int, image_size: tuple[int, int]) -> Views:
        """Parses an augmentation for images of a size, (height, width) in pixels.

        Raises:
          UsageError: what `parse_augment` raises, or for a crop that is not smaller than the image.
        """
        steps = parse_augment(augment)
        height, width = image_size
        for step in steps:
            if step.name == "crop" and not (step.size[0] < height and step.size[1] < width):
                raise UsageError(
                    f"--augment {step}: a crop must be smaller than the image on both sides, "
                    f"which is {height}x{width} pixels; crop less, or choose a larger --image_size"
                )
        return cls(count, steps, seed)

    @property
    def augment(self) -> str:
        """The steps in their canonical spelling."""
        return ",".join(map(str, self.steps))

    def count_of(self, split: str | None) -> int:
        """Returns the number of views of an image: `count` for training or no split, else 1."""
        trains = split is None or split_of(split) == "train"
        return self.count if trains else 1

    def make(self, pixels: np.ndarray, content_hash: str, view: int) -> np.ndarray:
        """Makes one view of an image.

        Args:
          pixels: uint8 (H, W, 3), the image at the base's size.
          content_hash: the hash of its file, 64 hex digits.
          view: the view's number; 0 is the image itself.

        Returns:
          uint8 (H, W, 3).
        """
        if view == 0:
            return pixels
        uniform = _uniform(self.seed, content_hash, view)
        image = pixels.astype(np.float32)
        for step in self.steps:
            image = step.apply(image, uniform)
        return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _uniform(seed: int, content_hash: str, view: int) -> Draw:
    """Returns a function that draws the numbers of one view, each with 53 random bits."""
    digest = hashlib.sha256(f"{seed}\0{content_hash}\0{view}".encode()).digest()
    generator = np.random.Philox(key=int.from_bytes(digest[:16], "big"))
    return lambda: (int(generator.random_raw()) >> 11) * 2.0**-53
