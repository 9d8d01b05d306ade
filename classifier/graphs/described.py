"""The preprocessing that a model's own file describes: Hugging Face's or timm's.

Both prepare images with Pillow: they resize, cut out the centre, and scale the pixels. What our
flags express exactly is taken; anything else is refused by name.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from classifier.graphs.files import is_graph_file, read_beside
from classifier.graphs.scaling import NAMED, Colours, mode_of
from featurestore.errors import UsageError, one_line, unknown_choice
from featurestore.spec import PREPROCESS_MODES

HUGGING_FACE, TIMM = "preprocessor_config.json", "config.json"
CHOICES = ("auto", *PREPROCESS_MODES, *NAMED, "FILE.json")
# Pillow's numbers of its filters.
_FILTERS = {2: "bilinear", 3: "bicubic"}
_TIMM_KEYS = ("pretrained_cfg", "default_cfg")


@dataclass(frozen=True)
class Described:
    """A preprocessing.

    Attributes:
      mode: of the spec, see `classifier.graphs.scaling`.
      source: the file that says so; "" for a name.
      image_size: (height, width) in pixels; None where the source does not say.
      pixels: fields of `PixelSpec`: fit and resize; empty where the source does not say.
    """

    mode: str
    source: str = ""
    image_size: tuple[int, int] | None = None
    pixels: tuple[tuple[str, str], ...] = ()

    @property
    def note(self) -> str:
        """The preprocessing in words, for the user."""
        flags = [f"--{name} {value}" for name, value in self.pixels]
        if self.image_size:
            flags.insert(0, "--image_size {}x{}".format(*self.image_size))
        return f"preprocessing {self.mode}, {' '.join(flags)}: by {self.source}"


def require_preprocess(asked: str) -> None:
    """Refuses a ``--preprocess`` that is neither a name nor a JSON file."""
    if asked not in CHOICES[:-1] and not asked.endswith(".json"):
        raise unknown_choice("--preprocess", asked, CHOICES)


def described(asked: str, model: str) -> Described | None:
    """Returns the preprocessing of a base.

    Args:
      asked: the user's ``--preprocess``.
      model: the user's ``--model``; files beside a graph are looked at.

    Returns:
      None where nothing says it, or where Keras's layers may.

    Raises:
      UsageError: for a file that cannot be read, or that asks for what our flags cannot express.
    """
    if asked in NAMED:
        return Described(mode_of(*NAMED[asked]))
    if asked.endswith(".json"):
        folder, name = os.path.split(asked)
        found = _read(folder, name)
        if found is None:
            raise UsageError(
                f"--preprocess: {asked!r} is not there, or describes no preprocessing; give a "
                f"{HUGGING_FACE} of Hugging Face or a {TIMM} of timm, or a name: "
                f"{', '.join(CHOICES[:-1])}"
            )
        return found
    if asked != "auto":
        return Described(asked)
    if not is_graph_file(model):
        return None
    folder, name = os.path.split(model)
    own = os.path.splitext(name)[0] + ".json"
    candidates = (_read(folder, file) for file in (HUGGING_FACE, TIMM, own))
    return next((found for found in candidates if found), None)


def undescribed(name: str, remedy: str) -> UsageError:
    """Returns the error for a base of which nothing says how its pixels are prepared."""
    return UsageError(
        f"--preprocess auto: nothing beside {name!r} says how its pixels are prepared; {remedy}, "
        f"or give --preprocess {'|'.join(CHOICES[1:])}"
    )


def _read(folder: str, name: str) -> Described | None:
    data = read_beside(folder, name)
    if data is None:
        return None
    try:
        record = json.loads(data)
    except ValueError as error:
        raise UsageError(f"--preprocess: {name!r} is not JSON ({one_line(error)})") from error
    if not isinstance(record, Mapping):
        return None
    try:
        for key in _TIMM_KEYS:
            if isinstance(record.get(key), Mapping):
                return _timm(record[key], name)
        if "input_size" in record and "mean" in record:
            return _timm(record, name)
        return _hugging_face(record, name) if "image_mean" in record else None
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"--preprocess: {name!r} has another form than its makers document "
            f"({type(error).__name__}: {one_line(error)}); give --preprocess by name, with "
            "--image_size, --fit and --resize"
        ) from error


def _timm(record: Mapping[str, Any], name: str) -> Described:
    """Reads a ``pretrained_cfg`` of timm, as its `create_transform` does for evaluation."""
    channels, height, width = (int(side) for side in record["input_size"])
    if channels != 3:
        raise inexpressible(name, f"{channels} channels")
    share = float(record.get("crop_pct") or 0.875)
    crop = record.get("crop_mode") or "center"
    if crop == "center" and height == width:
        fit = f"crop:{math.floor(height / share)}"
    elif crop == "squash" and share == 1.0:
        fit = "squash"
    else:
        raise inexpressible(name, f"crop_mode {crop!r} of {height}x{width} with crop_pct {share}")
    resize = _method(record.get("interpolation") or "bilinear", name)
    mode = mode_of(_colours(record["mean"]), _colours(record["std"]))
    return Described(mode, name, (height, width), (("fit", fit), ("resize", resize)))


def _hugging_face(record: Mapping[str, Any], name: str) -> Described:
    """Reads the configuration of an image processor of Hugging Face."""
    if record.get("do_pad"):
        raise inexpressible(name, "do_pad")
    if not record.get("do_resize", True):
        raise inexpressible(name, "do_resize false")
    cut = record.get("crop_size") if record.get("do_center_crop") else None
    size, fit = _fitted(record, record["size"], cut, name)
    factor = float(record.get("rescale_factor", 1 / 255)) if record.get("do_rescale", True) else 1.0
    mean, deviation = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if record.get("do_normalize", True):
        mean, deviation = _colours(record["image_mean"]), _colours(record["image_std"])
    # Ours are for pixels divided by 255.
    scale = 255 * factor
    mode = mode_of(_over(mean, scale), _over(deviation, scale))
    resize = _method(_FILTERS.get(record.get("resample", 2), record.get("resample")), name)
    return Described(mode, name, size, (("fit", fit), ("resize", resize)))


def _fitted(
    record: Mapping[str, Any], size: Any, cut: Any, name: str
) -> tuple[tuple[int, int], str]:
    """Returns (height and width, fit) of an image processor."""
    share = float(record.get("crop_pct") or 0)
    if isinstance(size, int):
        # Before sizes had names: the shorter side where the centre is cut out, else both sides.
        size = {"shortest_edge": size} if cut or share else {"height": size, "width": size}
    if set(size) == {"height", "width"}:
        both = int(size["height"]), int(size["width"])
        if cut and _sides(cut) != both:
            raise inexpressible(name, f"size {both} and then crop_size {_sides(cut)}")
        return both, "squash"
    if set(size) != {"shortest_edge"} or not (cut or share):
        raise inexpressible(name, f"size {dict(size)} without a crop, so of no fixed size")
    shorter = int(size["shortest_edge"])
    if cut:
        return _sides(cut), f"crop:{shorter}"
    # ConvNeXt's processor: from 384 on it does not crop.
    both = shorter, shorter
    return both, "squash" if shorter >= 384 else f"crop:{int(shorter / share)}"


def _sides(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return int(value["height"]), int(value["width"])


def _method(interpolation: Any, name: str) -> str:
    if interpolation not in _FILTERS.values():
        raise inexpressible(name, f"the interpolation {interpolation!r}")
    return f"pillow-{interpolation}"


def _colours(values: Any) -> Colours:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _over(values: Colours, scale: float) -> Colours:
    red, green, blue = (value / scale for value in values)
    return red, green, blue


def inexpressible(name: str, what: str) -> UsageError:
    """Returns the error for a preprocessing that our flags cannot express; `what` says which."""
    return UsageError(
        f"--preprocess: {name!r} asks for {what}, which no flag expresses exactly; give "
        "--preprocess by name, with --image_size, --fit and --resize of your choice"
    )
