"""The copy of the cut base in a store; SavedModels and backbones of KerasHub differ from others.

Keras saves only the path of a SavedModel's folder, so a store keeps the zipped folder instead,
under the same file name. So it does with a backbone, see `classifier.base.backbone`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifier.base.architecture import HELD
from classifier.base.backbone import FOLDER, unpacked
from classifier.base.saved import (
    UNREADABLE,
    fetched,
    lambda_names,
    load_checked,
    local_files,
    saved_config,
)
from classifier.base.signatures import Signature, signatures_of
from classifier.base.weights import weights_hash
from classifier.cachefolder import zipped
from classifier.graphs.files import GraphFiles
from classifier.runtime import import_keras
from featurestore.errors import CorruptStore, UsageError, cause
from featurestore.spec import BaseSpec

if TYPE_CHECKING:
    import keras

RESTORE = "restore it from a backup, or extract into a new store"
_SAVEDMODEL = "savedmodel"
_SIZE_ENTRY = "image_size.json"


def load_savedmodel(folder: Path, label: str, image_size: tuple[int, int]) -> keras.Model:
    """Wraps a SavedModel folder as a model from an image to its one output.

    Args:
      folder: the local folder that holds ``saved_model.pb``.
      label: the folder as the user named it.
      image_size: (height, width) in pixels.

    Raises:
      UsageError: when it is not a SavedModel, or does not map one image to one tensor.
    """
    require_savedmodel(folder, label)
    keras = import_keras()
    import tensorflow as tf

    failures = (*UNREADABLE, tf.errors.OpError)
    called = next(iter(signatures_of(folder)), None)
    try:
        name = called.name if called else "serving_default"
        layer = keras.layers.TFSMLayer(str(folder), call_endpoint=name)
        image = keras.Input((*image_size, 3), dtype="float32", name="image")
        output = layer(_argument(layer.call_endpoint_fn, image))
    except failures as error:
        reason = f"its signature is {called}" if called else cause(error)
        raise UsageError(
            f"--model: the SavedModel {label!r} does not take float32 images of "
            f"{image_size[0]}x{image_size[1]} ({reason}); {_fix(called, image_size)}"
        ) from error
    outputs = list(output.values()) if isinstance(output, dict) else [output]
    if len(outputs) != 1 or isinstance(outputs[0], (list, tuple)):
        raise UsageError(f"--model: the SavedModel {label!r} has several outputs; export one")
    model = keras.Model(image, outputs[0], name="savedmodel")
    # Packed now, because a fetched folder is removed before the base is stored.
    model.packed_savedmodel = _packed(folder, image_size)
    return model


def _argument(function: Any, image: keras.KerasTensor) -> Any:
    """Returns the image as an endpoint takes it: alone, or in a list or a dictionary of its own."""
    import tensorflow as tf

    functions = getattr(function, "concrete_functions", ())
    arguments = functions[-1].structured_input_signature[0] if functions else ()
    if not arguments or len(tf.nest.flatten(arguments[0])) != 1:
        return image
    return tf.nest.pack_sequence_as(arguments[0], [image])


def _fix(called: Signature | None, image_size: tuple[int, int]) -> str:
    own = called.image_size if called else None
    if own and own != image_size:
        return f"give --image_size {own[0]}x{own[1]}"
    return "export a model that takes one batch of images, float32 (n, height, width, 3)"


def require_savedmodel(folder: Path, label: str) -> None:
    """Raises a `UsageError` for a folder that is not a SavedModel."""
    if not (folder / "saved_model.pb").is_file():
        raise UsageError(
            f"--model: the folder {label!r} holds no saved_model.pb, so it is not a SavedModel; "
            "give the folder that holds it, or a .keras or .h5 file"
        )


def _packed(folder: Path, image_size: tuple[int, int]) -> bytes:
    files = {path.relative_to(folder).as_posix(): path for path in local_files(folder)}
    entries = ((f"{_SAVEDMODEL}/{name}", path.read_bytes()) for name, path in files.items())
    return zipped(itertools.chain([(_SIZE_ENTRY, json.dumps(image_size).encode())], entries))


def save_base(base: Any, path: str | Path) -> None:
    """Writes the cut base to a local file, in the form that a store keeps.

    Args:
      base: a `FrozenBase`.
      path: a local path ending in ``.keras``.
    """
    packed = getattr(base.model, "packed_savedmodel", None)
    held = getattr(base.model, HELD, None)
    if isinstance(base.model, GraphFiles):
        Path(path).write_bytes(base.model.packed())
    elif held is not None:
        Path(path).write_bytes(held.packed())
    elif packed is not None:
        # Keras would save only the folder's path.
        Path(path).write_bytes(packed)
    else:
        base.model.save(path)


def load_base(path: str | Path, spec: BaseSpec, trust_model: bool = False) -> keras.Model:
    """Loads a base that `save_base` wrote, and checks it against the spec.

    Args:
      path: a local path or any fsspec URL.
      spec: the base's record in the store's spec.
      trust_model: whether Lambda layers are allowed.

    Returns:
      A model from float32 (n, H, W, 3) to the layer's output, without preprocessing and pooling.

    Raises:
      CorruptStore: when the file is missing, damaged, or holds other weights.
      UsageError: when it has Lambda layers and is not trusted, or needs KerasHub where that is not
        installed.
    """
    with contextlib.ExitStack() as stack:
        try:
            local = stack.enter_context(fetched(str(path), "model"))
            load = _loader_of(local)
            config = saved_config(local) if load is None else None
            if config is None and load is None:
                raise ValueError("it holds weights only")
        except (UsageError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise CorruptStore(
                f"the stored base {str(path)!r} cannot be read ({cause(error)}); {RESTORE}"
            ) from error
        if load is None and any(lambda_names(config)) and not trust_model:
            raise UsageError(
                f"the stored base {str(path)!r} contains Lambda layers, which run Python code "
                "stored in the file; pass --trust_model if you trust its source"
            )
        try:
            model = load(local) if load else load_checked(local, trust_model)
        except UNREADABLE as error:
            raise CorruptStore(
                f"the stored base {str(path)!r} cannot be loaded ({cause(error)}); {RESTORE}"
            ) from error
    found = weights_hash(model)
    if found != spec.weights_hash:
        raise CorruptStore(
            f"the stored base {str(path)!r} has the weights {found}, its spec says "
            f"{spec.weights_hash}; {RESTORE}"
        )
    return model


def whole_only(model: keras.Model) -> str:
    """Returns what a base is, in words, if its layers cannot be saved one by one; "" otherwise."""
    if getattr(model, "packed_savedmodel", None) is not None:
        return "a SavedModel"
    return "a backbone of KerasHub" if getattr(model, HELD, None) is not None else ""


def _loader_of(path: Path) -> Callable[[Path], keras.Model] | None:
    """Returns what loads a file of a SavedModel or a backbone; None for one of Keras."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        names = {name.partition("/")[0] for name in archive.namelist()}
    loaders = {_SAVEDMODEL: _load_packed, FOLDER: _load_backbone}
    return next((load for folder, load in loaders.items() if folder in names), None)


def _load_backbone(path: Path) -> keras.Model:
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.startswith(f"{FOLDER}/")]
        return unpacked({name.partition("/")[2]: archive.read(name) for name in names})


def _load_packed(path: Path) -> keras.Model:
    with tempfile.TemporaryDirectory(prefix="hoarfrost-") as folder:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)  # zipfile removes "..", drives and leading slashes
            height, width = json.loads(archive.read(_SIZE_ENTRY))
        return load_savedmodel(Path(folder) / _SAVEDMODEL, path.name, (height, width))
