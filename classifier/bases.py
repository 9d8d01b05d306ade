"""Frozen bases: which network, which weights, cut where; and what can be cut.

`build_base` turns a request into a network from float32 images to one layer's output. Preprocessing
and pooling are not part of it: the engine puts them around it, in one graph.

As a command, lists the known bases, or the layers of one:

    python -m classifier.bases
    python -m classifier.bases VGG16
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from classifier.base import cut as cutting
from classifier.base import families, layers, preprocess, saved
from classifier.base.preprocess import preprocess_graph
from classifier.base.stored import load_base, save_base
from classifier.base.weights import ImagenetUnavailable, packaged_weights, weights_hash
from classifier.runtime import import_keras
from featurestore.cli.command import Parser, main, quiet_libraries, say
from featurestore.errors import UsageError, unknown_choice
from featurestore.spec import POOLINGS, PREPROCESS_MODES, BaseSpec, PixelSpec

if TYPE_CHECKING:
    import keras

__all__ = [
    "BaseRequest",
    "FrozenBase",
    "ImagenetUnavailable",
    "build_base",
    "load_base",
    "packaged_weights",
    "parse_image_size",
    "preprocess_graph",
    "save_base",
    "weights_hash",
]


@dataclass(frozen=True)
class BaseRequest:
    """What the user asked for; checked on construction.

    Attributes:
      model: a `keras.applications` name, a `.keras` or `.h5` file, or a SavedModel folder; files
        and folders also as fsspec URLs.
      weights: ``imagenet`` (for a saved model: its own), ``none`` for random, or a file.
      layer: where to cut, ``outer/inner`` in nested models; empty for the default.
      pooling: ``none``, ``avg`` or ``max``.
      image_size: (height, width) in pixels; None for the base's own.
      preprocess: ``auto``, ``none``, ``unit``, ``tf``, ``caffe`` or ``torch``.
      seed: of random weights.
      trust_model: whether the file's own Python code (Lambda layers) may run.
    """

    model: str = "VGG16"
    weights: str = "imagenet"
    layer: str = ""
    pooling: str = "none"
    image_size: tuple[int, int] | None = None
    preprocess: str = "auto"
    seed: int = 0
    trust_model: bool = False

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise unknown_choice("--pooling", self.pooling, POOLINGS)
        if self.preprocess not in ("auto", *PREPROCESS_MODES):
            raise unknown_choice("--preprocess", self.preprocess, ("auto", *PREPROCESS_MODES))
        if self.image_size is not None:
            PixelSpec(self.image_size)
        application = self.application
        named = self.weights in ("imagenet", "none")
        if not named and not saved.looks_like_path(self.weights):
            raise unknown_choice("--weights", self.weights, ("imagenet", "none", "PATH of a file"))
        if application is not None and min(self.size) < application.min_size:
            raise UsageError(
                f"--image_size: {application.name} needs at least {application.min_size} pixels "
                f"on each side, got {self.size[0]}x{self.size[1]}"
            )

    @property
    def application(self) -> families.Application | None:
        """The named base of `keras.applications`, or None when `model` is a path."""
        known = {name.casefold() for name in families.APPLICATIONS}
        if self.model.casefold() not in known and saved.looks_like_path(self.model):
            return None
        return families.resolve_application(self.model)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) asked for, or the application's default; (0, 0) when a file decides."""
        if self.image_size is not None or self.application is None:
            return self.image_size or (0, 0)
        if cutting.is_top_layer(self.layer):
            return (families.keras_image_size(self.application),) * 2
        return (self.application.image_size,) * 2

    @cached_property
    def digest(self) -> str:
        """16 hex digits, equal for requests that build the same base.

        Files count by their bytes, not their paths; defaults count as what they stand for. Kept
        once computed, because remote files are fetched for it.
        """
        application, random = self.application, self.weights == "none"
        if application is not None:
            model = application.name
        else:
            model = saved.file_digest(self.model, "--model")
        source = self.weights
        if source not in ("imagenet", "none"):
            source = saved.file_digest(source, "--weights")
        elif application is None and not random:
            source = "file"
        seed = self.seed if random else 0
        record = (model, source, self.layer, self.pooling, self.size, self.preprocess, seed)
        return hashlib.sha256(json.dumps(record).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class FrozenBase:
    """A built base.

    Attributes:
      model: from float32 (n, H, W, 3), already preprocessed, to the cut layer's output.
      spec: what it is, for the store.
      image_size: (height, width) in pixels.
      feature_shape: of one row after pooling, such as (5, 5, 512) or (512,).
      notes: lines for the user about what was decided for them.
    """

    model: keras.Model
    spec: BaseSpec
    image_size: tuple[int, int]
    feature_shape: tuple[int, ...]
    notes: tuple[str, ...] = ()


def build_base(request: BaseRequest, *, allow_packaged: bool = False) -> FrozenBase:
    """Builds the base that was asked for.

    Args:
      request: the flags.
      allow_packaged: whether weights from an installed Python package may stand in when ImageNet's
        cannot be downloaded; a note then says so.

    Returns:
      The base, cut, with its weights.

    Raises:
      ImagenetUnavailable: when ImageNet's weights cannot be had.
      UsageError: for anything in the request that does not fit.
    """
    import_keras()
    if request.application is not None:
        part = cutting.cut_application(request, request.application, allow_packaged)
        name = request.application.name
    else:
        with saved.fetched(request.model, "--model") as path:
            name = path.resolve().name
            from_path = cutting.cut_savedmodel if path.is_dir() else cutting.cut_file
            part = from_path(request, path)
    mode, notes = _preprocessing(request, part)
    shape = tuple(part.model.output_shape)
    if None in shape[1:]:
        raise UsageError(
            f"--layer: the output of {part.layer!r} has no fixed shape, got {shape[1:]}; choose "
            "another layer"
        )
    spec = BaseSpec(
        model=name,
        weights=part.weights,
        weights_hash=weights_hash(part.model),
        layer=part.layer,
        pooling=request.pooling,
        preprocess=mode,
        request=request.digest,
    )
    height, width = part.model.input_shape[1:3]
    pooled = preprocess.pooled_shape(shape[1:], request.pooling)
    return FrozenBase(part.model, spec, (height, width), pooled, (*part.notes, *notes))


def _preprocessing(request: BaseRequest, part: cutting.Cut) -> tuple[str, tuple[str, ...]]:
    if request.preprocess != "auto":
        return request.preprocess, ()
    if part.mode is None:
        raise UsageError(
            f"--preprocess auto: {request.model!r} does not tell what its pixels need; say "
            "--preprocess none (it rescales inside), unit (0 to 1), tf (-1 to 1), caffe (BGR minus "
            "means) or torch (ImageNet mean and deviation)"
        )
    mode, reason = part.mode
    return mode, (f"preprocessing {mode}: {reason}",) if reason else ()


def _table() -> list[dict]:
    return [
        {
            "name": application.name,
            "image_size": application.image_size,
            "min_size": application.min_size,
            "preprocess": application.preprocess,
        }
        for application in families.APPLICATIONS.values()
    ]


def _open(request: BaseRequest) -> keras.Model:
    """Builds the whole network for listing; weights do not matter for an application's layers."""
    import_keras()
    if request.application is not None:
        return build_base(dataclasses.replace(request, weights="none")).model
    with saved.fetched(request.model, "--model") as path:
        if path.is_dir():
            return cutting.cut_savedmodel(request, path).model
        return saved.load_saved(path, path.name, request.trust_model)


def _say_layers(name: str, record: dict) -> None:
    rows = record["layers"]
    width = max(len(row["name"]) for row in rows)
    say(f"{'layer':<{width}}  {'type':<22} {'output':<18} {'parameters':>12}")
    for row in rows:
        shape = "-" if row["output_shape"] is None else str(tuple(row["output_shape"]))
        say(f"{row['name']:<{width}}  {row['type']:<22} {shape:<18} {row['parameters']:>12,}")
    say(
        f"{name}: {len(rows)} layers, {record['trainable']:,} trainable and "
        f"{record['non_trainable']:,} non-trainable parameters; in a store all are frozen"
    )


def run(argv: Sequence[str]) -> int:
    """Lists the known bases, or the layers of one."""
    parser = Parser(prog="python -m classifier.bases", description=__doc__)
    text = "a keras.applications name or a saved model"
    parser.add_argument("name", nargs="?", metavar="NAME", help=text)
    parser.add_argument(
        "--weights", default="none", choices=["none"], help="layers are listed without weights"
    )
    parser.add_argument("--image_size", type=parse_image_size, help="such as 180 or 180x240")
    parser.add_argument("--trust_model", action="store_true", help="allow Lambda layers")
    parser.add_argument("--json", action="store_true", help="JSON on standard output")
    flags = parser.parse_args(argv)
    if flags.name is None:
        table = _table()
        if flags.json:
            say(json.dumps(table, indent=2))
            return 0
        say(f"{'name':<20} {'size':>5} {'minimum':>8}  preprocessing")
        for row in table:
            say("{name:<20} {image_size:>5} {min_size:>8}  {preprocess}".format(**row))
        say(f"{len(table)} bases; none means that the graph does its own preprocessing")
        return 0
    quiet_libraries()
    try:
        record = _describe(flags.name, flags.image_size, flags.trust_model)
    except UsageError as error:
        # An extraction has a flag for what is an argument here.
        raise type(error)(str(error).replace("--model", "NAME")) from error
    if flags.json:
        say(json.dumps(record, indent=2))
    else:
        _say_layers(record["model"], record)
    return 0


def _describe(model: str, image_size: tuple[int, int] | None, trust_model: bool) -> dict:
    request = BaseRequest(model=model, image_size=image_size, trust_model=trust_model)
    application = request.application
    name = application.name if application else model
    return {"model": name, **layers.describe(_open(request), application is not None)}


def parse_image_size(text: str) -> tuple[int, int]:
    """Turns ``180`` or ``180x240`` into (height, width) in pixels.

    Raises:
      UsageError: for anything else.

    Example:
      >>> parse_image_size("180"), parse_image_size("180x240")
      ((180, 180), (180, 240))
    """
    height, times, width = text.lower().partition("x")
    if not height.isdecimal() or (times and not width.isdecimal()):
        raise UsageError(f"--image_size: expected 180 or 180x240 (height x width), got {text!r}")
    size = (int(height), int(width or height))
    PixelSpec(size)
    return size


if __name__ == "__main__":
    main(run)
