"""The request for a frozen base, as the flags describe it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from classifier.base import families, layers, saved
from classifier.graphs.described import Described, described, require_preprocess
from classifier.graphs.files import is_graph_file, read_graph
from classifier.presets.converter import described_by_preset
from classifier.presets.preset import is_preset, located
from featurestore.errors import UsageError, unknown_choice
from featurestore.fields import PixelSpec, tap_name
from featurestore.spec import POOLINGS
from featurestore.units import parse_sides

PIXELS = "pixels"


@dataclass(frozen=True)
class BaseRequest:
    """The base that the user wants; checked on construction.

    Attributes:
      model: a `keras.applications` name, a `.keras` or `.h5` file, a SavedModel folder, or an
        ONNX or OpenVINO graph (`.onnx`, `.xml`); files and folders also as fsspec URLs. A preset of
        KerasHub is ``kerashub:NAME`` or ``kerashub:FOLDER``. ``pixels`` stands for no base.
      weights: ``imagenet`` (for a saved model: its own), ``none`` for random ones, or a file.
      layer: the layer to cut at, ``outer/inner`` in nested models, or a tensor of a graph; empty
        for the default.
      taps: several layers, each perhaps with a pooling of its own, ``LAYER:POOLING``; one alone
        becomes `layer` and `pooling`.
      pooling: ``none``, ``avg``, ``max`` or ``gem``, and ``cls``, ``mean`` or ``mean-patch`` of
        tokens.
      image_size: (height, width) in pixels; None for the base's default.
      preprocess: ``auto``, a name, or a JSON file; see `classifier.graphs.described`.
      seed: of random weights.
      trust_model: whether Python code in the file (Lambda layers) may run.
      channels: of pixels: 3 for RGB, 1 for grey.
    """

    model: str = "VGG16"
    weights: str = "imagenet"
    layer: str = ""
    pooling: str = "none"
    image_size: tuple[int, int] | None = None
    preprocess: str = "auto"
    seed: int = 0
    trust_model: bool = False
    channels: int = 3
    taps: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._check_taps()
        if self.pooling not in POOLINGS:
            raise unknown_choice("--pooling", self.pooling, POOLINGS)
        require_preprocess(self.preprocess)
        if self.image_size is not None:
            PixelSpec(self.image_size)
        if self.channels not in (1, 3):
            raise UsageError(f"--channels must be 3 (RGB) or 1 (grey), got {self.channels}")
        if self.is_pixels:
            self._check_pixels()
            return
        if self.channels != 3:
            raise UsageError(
                f"--channels {self.channels} is for --model pixels, got --model {self.model!r}; a "
                "base that takes one channel is given grey pixels without it"
            )
        own = ("imagenet", "none") if self.is_preset else ("imagenet",)
        if (self.is_graph or self.is_preset) and self.weights not in own:
            raise UsageError(
                f"--weights {self.weights}: {self.model!r} holds its own weights; leave it out"
            )
        application = self.application
        named = self.weights in ("imagenet", "none")
        if not named and not saved.looks_like_path(self.weights):
            raise unknown_choice("--weights", self.weights, ("imagenet", "none", "PATH of a file"))
        if application is not None and min(self.size) < application.min_size:
            raise UsageError(
                f"--image_size: {application.name} needs at least {application.min_size} pixels "
                f"on each side, got {self.size[0]}x{self.size[1]}"
            )

    def _check_pixels(self) -> None:
        refuse_for_pixels(
            weights=self.weights != "imagenet" and self.weights,
            layer=self.layer or " ".join(self.taps),
            pooling=self.pooling != "none" and self.pooling,
            preprocess=self.preprocess not in ("auto", "none") and self.preprocess,
        )
        if self.image_size is None:
            raise UsageError(
                "--image_size: --model pixels has no size of its own; give the one that your heads "
                "will see, such as --image_size 180"
            )

    def _check_taps(self) -> None:
        if len(self.taps) == 1:
            layer, pooling = parse_tap(self.taps[0], self.pooling)
            for name, value in (("layer", layer), ("pooling", pooling), ("taps", ())):
                object.__setattr__(self, name, value)
        found = [(each.layer, each.pooling) for each in self.singles if self.taps]
        for layer, pooling in found:
            if not layer or found.count((layer, pooling)) > 1:
                raise UsageError(
                    f"--layer {tap_name(layer, pooling)!r}: each of several layers is named, and "
                    "once; the same layer may come with another pooling, as in block5_pool:avg"
                )

    @property
    def singles(self) -> tuple[BaseRequest, ...]:
        """The request of each tap alone, in the order of their names; of one layer, this one."""
        taps = sorted(parse_tap(text, self.pooling) for text in self.taps)
        return tuple(
            dataclasses.replace(self, taps=(), layer=layer, pooling=pooling)
            for layer, pooling in taps
        ) or (self,)

    @property
    def is_pixels(self) -> bool:
        """Whether pixels are stored, and no base computes anything."""
        return self.model.casefold() == PIXELS

    @property
    def is_graph(self) -> bool:
        """Whether the base is an ONNX or OpenVINO graph."""
        return is_graph_file(self.model)

    @property
    def is_preset(self) -> bool:
        """Whether the base is a backbone of KerasHub."""
        return is_preset(self.model)

    @property
    def application(self) -> families.Application | None:
        """The named base of `keras.applications`, or None for a path, a preset and pixels."""
        if self.is_pixels or self.is_graph or self.is_preset:
            return None
        known = {name.casefold() for name in families.APPLICATIONS}
        if self.model.casefold() not in known and saved.looks_like_path(self.model):
            return None
        return families.resolve_application(self.model)

    @property
    def asked_size(self) -> tuple[int, int] | None:
        """The (height, width) by the flag or by the file of the preprocessing, or None."""
        return self.image_size or (self.described.image_size if self.described else None)

    @property
    def size(self) -> tuple[int, int]:
        """The requested (height, width), or the application's default; (0, 0) if a file decides."""
        if self.image_size is not None or self.application is None:
            return self.asked_size or (0, 0)
        if any(layers.is_top_layer(each.layer) for each in self.singles):
            return (families.keras_image_size(self.application),) * 2
        return (self.application.image_size,) * 2

    @cached_property
    def described(self) -> Described | None:
        """The preprocessing that was asked for, or that a file beside the model describes."""
        if self.is_preset and self.preprocess == "auto":
            return described_by_preset(self.model)
        return None if self.is_pixels else described(self.preprocess, self.model)

    @property
    def pixels(self) -> dict[str, str]:
        """The fields of a `PixelSpec` that the file of the preprocessing gives.

        Raises:
          UsageError: where they are for images of another size.
        """
        found = self.described
        if found is None or not found.pixels:
            return {}
        absolute = ":" in dict(found.pixels)["fit"]
        if absolute and self.image_size not in (None, found.image_size):
            own = "x".join(map(str, found.image_size or ()))
            raise UsageError(
                f"--image_size: {found.source!r} describes images of {own}; for others, give --fit "
                "and --resize too"
            )
        return dict(found.pixels)

    @cached_property
    def digest(self) -> str:
        """16 hex digits, equal for requests that build the same base.

        Files count by their bytes, not their paths, and a default equals its explicit value. The
        digest is kept, because computing it may fetch remote files.
        """
        if self.is_pixels:
            return _digest(PIXELS, self.channels, self.size)
        if self.is_graph:
            found = self.described
            mode = found.mode if found else self.preprocess
            files = read_graph(self.model).digest
            return _digest(files, "graph", *self._cuts, self.asked_size, mode)
        application, random = self.application, self.weights == "none"
        if application is not None:
            model = application.name
        elif self.is_preset:
            place = located(self.model)
            model = place.version or saved.file_digest(place.address, "--model")
        else:
            model = saved.file_digest(self.model, "--model")
        source = self.weights
        if source not in ("imagenet", "none"):
            source = saved.file_digest(source, "--weights")
        elif application is None and not random:
            source = "preset" if self.is_preset else "file"
        seed = self.seed if random else 0
        mode = self.described.mode if self.described else self.preprocess
        return _digest(model, source, *self._cuts, self.size, mode, seed)

    @property
    def _cuts(self) -> list[Any]:
        """Layer and pooling; of several layers, those of each, in the order of their names."""
        if self.taps:
            return [[each.layer, each.pooling] for each in self.singles]
        return [self.layer, self.pooling]


def _digest(*record: Any) -> str:
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()[:16]


def refuse_for_pixels(**flags: str | bool) -> None:
    """Refuses flags of a base, by name, where pixels are stored.

    Args:
      flags: name -> what was given; empty or False for nothing.

    Raises:
      UsageError: naming the first one given.
    """
    for name, given in flags.items():
        if given:
            raise UsageError(
                f"--{name} {given}: is for features that a base computes, and --model pixels "
                "stores the images themselves, as uint8; leave it out"
            )


def parse_image_size(text: str) -> tuple[int, int]:
    """Parses ``180`` or ``180x240`` as (height, width) in pixels.

    Raises:
      UsageError: for any other text.

    Example:
      >>> parse_image_size("180"), parse_image_size("180x240")
      ((180, 180), (180, 240))
    """
    size = parse_sides(text)
    if size is None:
        raise UsageError(f"--image_size: expected 180 or 180x240 (height x width), got {text!r}")
    PixelSpec(size)
    return size


def parse_tap(text: str, pooling: str = "none") -> tuple[str, str]:
    """Returns (layer, pooling) of ``LAYER`` or ``LAYER:POOLING``.

    Args:
      text: what the user gave; another end than a pooling is part of the layer's name.
      pooling: of a layer without one.

    Example:
      >>> parse_tap("block5_pool:avg"), parse_tap("block5_pool", "max")
      (('block5_pool', 'avg'), ('block5_pool', 'max'))
    """
    layer, _, given = text.rpartition(":")
    return (layer, given) if given in POOLINGS and layer else (text, pooling)
