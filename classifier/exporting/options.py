"""What a user may ask of an export, and how close its file must come to the run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from featurestore.errors import UsageError, unknown_choice
from featurestore.spec import PIXEL_DTYPE, StoreSpec

# Format -> the suffix of its file; a SavedModel is a folder.
SUFFIXES = {
    "keras": ".keras",
    "savedmodel": "",
    "tflite": ".tflite",
    "openvino": ".xml",
    "onnx": ".onnx",
}
# The precisions of an extraction whose features an exported file computes to the last digits.
EXACT = ("float32", PIXEL_DTYPE)
PRECISIONS = ("float32", "float16", "dynamic", "int8")
# Of images; an int8 model is calibrated on as many.
ROWS = 100


@dataclass(frozen=True)
class ExportOptions:
    """The user's flags; checked on construction.

    Attributes:
      format: a key of `SUFFIXES`.
      output: the local file to write, or the folder of a SavedModel.
      precision: of the weights of a TFLite file: one of `PRECISIONS`.
      rows: images to check the file on, beside the probe images of the run.
      overwrite: whether an older export may be replaced.
      trust_model: whether Lambda layers of the base may run.
      images: an input with these images; "" takes them from the store.
    """

    format: str
    output: Path
    precision: str = "float32"
    rows: int = ROWS
    overwrite: bool = False
    trust_model: bool = False
    images: str = ""

    def __post_init__(self) -> None:
        if self.format not in SUFFIXES:
            raise unknown_choice("--format", self.format, SUFFIXES)
        if self.precision not in PRECISIONS:
            raise unknown_choice("--precision", self.precision, PRECISIONS)
        if self.precision != "float32" and self.format != "tflite":
            raise UsageError(
                f"--precision {self.precision} is for --format tflite, got --format "
                f"{self.format!r}; leave it out"
            )
        if self.rows < 0:
            raise UsageError(f"--rows must be at least 0, got {self.rows}")
        suffix = SUFFIXES[self.format]
        if "://" in str(self.output) or ":/" in str(self.output):
            raise UsageError(
                f"--output must be a local path, got {str(self.output)!r}; copy the file afterwards"
            )
        if self.output.suffix.lower() in SUFFIXES.values() and self.output.suffix != suffix:
            suffix = suffix or "no suffix: it is a folder"
            raise UsageError(
                f"--output: the file of --format {self.format} has {suffix}, got "
                f"{str(self.output)!r}"
            )

    @property
    def label(self) -> str:
        """Format and precision, in the user's words."""
        return f"{self.format} {self.precision}"


@dataclass(frozen=True)
class Limits:
    """How close a file must come to the run.

    Attributes:
      top_1: the least share of images with the run's most probable class.
      difference: the largest difference of a probability; 1 allows any.
    """

    top_1: float
    difference: float


def limits_of(precision: str, spec: StoreSpec) -> Limits:
    """Returns the limits of an export's precision, for features of a store.

    Features of a low precision differ from the float32 ones that the file computes, and float16
    features may round to the other side.
    """
    if precision in ("dynamic", "int8"):
        return Limits(0.99, 1.0)
    if precision == "float16" or spec.numerics.precision not in EXACT:
        return Limits(0.995 if spec.numerics.precision != "int8" else 0.99, 1.0)
    return Limits(1.0, 1e-3 if spec.dtype == "float16" else 1e-4)
