"""The pixels of a spec: how the bytes of an image become the input of a base."""

from __future__ import annotations

from dataclasses import dataclass

from featurestore.errors import UsageError, unknown_choice

FITS = ("squash", "crop", "pad")
RESIZES = ("bilinear", "bicubic", "area", "nearest")
ALPHAS = ("drop", "white", "black")
EXIFS = ("ignore", "apply")


def require_choice(what: str, got: str, choices: tuple[str, ...]) -> None:
    """Raises a `UsageError` unless a value is one of the choices; `what` is the user's name."""
    if got not in choices:
        raise unknown_choice(what, got, choices)


@dataclass(frozen=True)
class PixelSpec:
    """How image bytes become ``uint8 (H, W, 3)`` RGB pixels.

    Attributes:
      image_size: (height, width) in pixels.
      fit: ``squash`` ignores the aspect ratio, like Keras; ``crop`` cuts out the centre; ``pad``
        adds black borders.
      resize: a method of ``tf.image.resize(antialias=False)``; results are rounded and clipped.
      alpha: ``drop`` ignores transparency; ``white`` and ``black`` put that colour behind it.
      exif: ``apply`` or ``ignore`` the EXIF orientation.
    """

    image_size: tuple[int, int]
    fit: str = "squash"
    resize: str = "bilinear"
    alpha: str = "drop"
    exif: str = "ignore"

    def __post_init__(self) -> None:
        height, width = self.image_size
        if not (1 <= height <= 4096 and 1 <= width <= 4096):
            raise UsageError(
                f"--image_size: height and width must be 1 to 4096 pixels, got {height}x{width}"
            )
        require_choice("--fit", self.fit, FITS)
        require_choice("--resize", self.resize, RESIZES)
        require_choice("--alpha", self.alpha, ALPHAS)
        require_choice("--exif", self.exif, EXIFS)
