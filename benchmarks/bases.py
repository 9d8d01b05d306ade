"""The frozen bases that are measured, as one model file that every contender loads.

    python -m benchmarks.bases VGG16 base.keras

VGG16 and MobileNetV2 have the real weights that ``make install`` brings along, or random weights
where those packages are missing. `Patches` is not a useful network: it makes maps of (5, 5, 512) as
fast as images are decoded, for measuring what comes after the base.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import processes
from classifier.base.weights import packaged_weights, set_packaged
from classifier.runtime import import_keras
from featurestore.cli.command import Parser, main
from featurestore.errors import unknown_choice


@dataclass(frozen=True)
class Base:
    """A base and how it is measured.

    Attributes:
      name: of `keras.applications`, or ``Patches``.
      size: height and width of its input, in pixels.
      pooling: ``none`` or ``avg``.
      preprocess: what its pixels need, such as ``tf``.
      images: number of images for a rate, by default; a faster base needs more.
    """

    name: str
    size: int
    pooling: str
    preprocess: str
    images: int

    @property
    def title(self) -> str:
        """The base's name in tables."""
        kind = "map" if self.pooling == "none" else f"pooled by {self.pooling}"
        return f"{self.name} at {self.size}, {kind}"

    def flags(self, file: Path) -> list[str]:
        """Returns the flags of ``pipelines.extract`` for this base."""
        return [
            *("--model", str(file), "--preprocess", self.preprocess),
            *("--pooling", self.pooling, "--image_size", str(self.size)),
        ]


BASES = {
    base.name: base
    for base in (
        Base("VGG16", 180, "none", "caffe", 200),
        Base("MobileNetV2", 160, "avg", "tf", 2000),
    )
}
PATCHES = Base("Patches", 180, "none", "unit", 4000)


def chosen(names: str) -> list[Base]:
    """Returns the bases of a list separated by commas.

    Raises:
      UsageError: for an unknown base.
    """
    for name in names.split(","):
        if name not in BASES:
            raise unknown_choice("--bases", name, tuple(BASES))
    return [BASES[name] for name in names.split(",")]


def write_base(base: Base, file: Path) -> None:
    """Writes a base, without preprocessing and pooling, as a Keras file."""
    keras = import_keras()
    keras.utils.set_random_seed(0)
    if base == PATCHES:
        image = keras.Input((base.size, base.size, 3))
        patches = keras.layers.AveragePooling2D(base.size // 5)(image)
        keras.Model(image, keras.layers.Conv2D(512, 1, activation="relu")(patches)).save(file)
        return
    build = getattr(keras.applications, base.name)
    model = build(weights=None, include_top=False, input_shape=(base.size, base.size, 3))
    if packaged_weights(base.name):
        set_packaged(model, base.name)
    model.save(file)


def write_base_apart(base: Base, folder: Path, timeout: float = 300) -> Path:
    """Writes a base in a process of its own, so that this one stays free of TensorFlow.

    Returns:
      The path of its file, in `folder`.
    """
    file = folder / "base.keras"
    processes.run_command(processes.module("benchmarks.bases", base.name, file), folder, timeout)
    return file


def run(argv: Sequence[str]) -> int:
    """Writes one base; returns the exit code."""
    parser = Parser(prog="python -m benchmarks.bases", description=__doc__)
    parser.add_argument("name", choices=[*BASES, PATCHES.name])
    parser.add_argument("file", type=Path)
    args = parser.parse_args(argv)
    write_base({**BASES, PATCHES.name: PATCHES}[args.name], args.file)
    return 0


if __name__ == "__main__":
    main(run)
