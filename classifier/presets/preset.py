"""A preset of KerasHub: a name that it can download, or a folder that `save_to_preset` wrote.

KerasHub keeps downloads in the caches of Kaggle and of Hugging Face, so a preset is fetched once.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifier.runtime import import_keras, standard_error_held
from featurestore.errors import UsageError, cause, did_you_mean

if TYPE_CHECKING:
    import keras

PREFIX = "kerashub:"
# Of addresses whose downloads have a version or a commit.
_REMOTE = ("kaggle", "hf")
_CONFIG = "config.json"
_FILES = (_CONFIG, "model.weights.h5")


def is_preset(model: str) -> bool:
    """Returns whether a ``--model`` names a preset of KerasHub.

    Example:
      >>> is_preset("kerashub:dinov2_small"), is_preset("VGG16")
      (True, False)
    """
    return model.startswith(PREFIX)


def preset_name(model: str) -> str:
    """Returns what the spec of a store calls a preset: its name, or that of its folder.

    Example:
      >>> preset_name("kerashub:presets/tiny/")
      'kerashub:tiny'
    """
    return PREFIX + model.removeprefix(PREFIX).rstrip("/").rpartition("/")[2]


def import_keras_hub() -> Any:
    """Imports KerasHub.

    Raises:
      UsageError: when it is not installed.
    """
    import_keras()
    try:
        with standard_error_held():
            import keras_hub
    except ImportError as error:
        raise UsageError(
            f"the base is a backbone of KerasHub, which is not installed here ({cause(error)}); "
            "pip install 'hoarfrost[kerashub]'"
        ) from error
    return keras_hub


@dataclass(frozen=True)
class Located:
    """Where a preset is.

    Attributes:
      address: as KerasHub takes it.
      folder: the local folder that holds its configuration.
      version: names the content of a download; "" for a folder of the user's own.
    """

    address: str
    folder: Path
    version: str = ""


def located(model: str) -> Located:
    """Finds a preset; downloads its configuration, if it is not on this machine yet.

    Args:
      model: ``kerashub:`` and a name, a folder, or an address of Kaggle or Hugging Face.

    Raises:
      UsageError: when KerasHub is not installed, and when there is no such preset.
    """
    name = model.removeprefix(PREFIX)
    known = import_keras_hub().models.Backbone.presets
    if name not in known and "://" not in name:
        folder = Path(name).expanduser()
        if not (folder / _CONFIG).is_file():
            lacks = f"the folder {name!r} holds no {_CONFIG}, so it is no preset of KerasHub"
            what = f"KerasHub has no preset {name!r}, and there is no such folder"
            raise UsageError(
                f"--model: {lacks if folder.is_dir() else what}{did_you_mean(name, known)}; see "
                "keras_hub.models.Backbone.presets for the names, or give a folder that "
                "save_to_preset wrote"
            )
        return Located(str(folder), folder)
    if name not in known and name.partition("://")[0] not in _REMOTE:
        raise UsageError(
            f"--model: {model!r} is at an address that KerasHub gives no version of; give a "
            f"preset's name, {'://... or '.join(_REMOTE)}://..., or copy it into a local folder"
        )
    return _downloaded(name)


@functools.lru_cache(maxsize=8)
def _downloaded(name: str) -> Located:
    from keras_hub.src.utils.preset_utils import get_file

    with standard_error_held():
        config = explained(PREFIX + name, lambda: get_file(name, _CONFIG))
    # The caches have a folder for each version, or commit.
    folder = Path(config).parent
    return Located(name, folder, f"{name}@{folder.name}")


def explained(model: str, load: Callable[[], Any]) -> Any:
    """Returns what `load` gives, and explains its failure.

    Raises:
      UsageError: naming the preset, the cause and the ways out.
    """
    try:
        return load()
    except UsageError:
        raise
    # Kaggle's and Hugging Face's clients, and KerasHub's own readers, share no exception class.
    except Exception as error:
        raise UsageError(
            f"--model: cannot get the preset {model!r} ({cause(error)}); check the name and the "
            "network (a download is kept for later), or save it on another machine by "
            f"save_to_preset and give {PREFIX}FOLDER"
        ) from error


def load_backbone(
    model: str, image_size: tuple[int, int] | None = None, seed: int | None = None
) -> keras.Model:
    """Loads the backbone of a preset that takes images.

    Args:
      model: the preset.
      image_size: (height, width) in pixels; None for its own.
      seed: of random weights; None for its own weights.

    Returns:
      The `keras_hub.models.Backbone`, or the image side of one with two sides.

    Raises:
      UsageError: when it cannot be had, takes no image alone, or not of that size.
    """
    address = located(model).address
    hub = import_keras_hub()

    def load(**shape: Any) -> Any:
        if seed is not None:
            import_keras().utils.set_random_seed(seed)
        return hub.models.Backbone.from_preset(address, load_weights=seed is None, **shape)

    backbone = _image_side(explained(model, load), model)
    own = tuple(backbone.inputs[0].shape[1:])
    if image_size and None not in own and own[:2] != image_size:
        try:
            backbone = _image_side(load(image_shape=(*image_size, own[2])), model)
        # What KerasHub and Keras raise for an argument or a shape that does not fit.
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError(
                f"--image_size: {model!r} cannot be built for images of {image_size[0]}x"
                f"{image_size[1]} ({cause(error)}); give --image_size {own[0]}x{own[1]}"
            ) from error
    return backbone


def _image_side(backbone: Any, model: str) -> Any:
    """Returns the part of a backbone that takes one image."""
    for side in (backbone, getattr(backbone, "vision_encoder", None)):
        inputs = getattr(side, "inputs", None) or []
        if [len(tensor.shape) for tensor in inputs] == [4]:
            return side
    wanted = ", ".join(tensor.name for tensor in backbone.inputs)
    raise UsageError(
        f"--model: {model!r} is a {type(backbone).__name__} with the inputs {wanted}, and a base "
        "takes one image; choose a preset for images, or save the part that takes images by its "
        f"save_to_preset and give {PREFIX}FOLDER"
    )


def written(backbone: Any) -> dict[str, bytes]:
    """Returns the files of a backbone as a preset: name -> content."""
    with tempfile.TemporaryDirectory(prefix="hoarfrost-") as folder:
        backbone.save_to_preset(folder, max_shard_size=None)
        # Beside them is a file with the date.
        return {name: Path(folder, name).read_bytes() for name in _FILES}


def read_backbone(files: dict[str, bytes]) -> keras.Model:
    """Reads what `written` gave; raises whatever KerasHub raises for other files."""
    hub = import_keras_hub()
    with tempfile.TemporaryDirectory(prefix="hoarfrost-") as folder:
        for name in _FILES:
            Path(folder, name).write_bytes(files[name])
        return hub.models.Backbone.from_preset(folder)
