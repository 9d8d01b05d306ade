"""Fetches saved Keras models, refuses unsafe ones and loads the others.

A `.keras` or `.h5` file may contain Python byte code (Lambda layers), so its configuration is read
as text and checked before Keras loads it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifier.base.families import beside
from classifier.runtime import import_keras
from featurestore.errors import UsageError, cause, did_you_mean
from featurestore.io.lookup import download, entry

if TYPE_CHECKING:
    import keras

SUFFIXES = (".keras", ".h5", ".hdf5")
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
# What Keras, h5py and zipfile raise for a file that is not a model.
UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    ImportError,
    RuntimeError,
    IndexError,
    NotImplementedError,
    zipfile.BadZipFile,
)


def looks_like_path(text: str) -> bool:
    """Returns whether `text` is a path or URL, not a name: by separator, suffix or existence."""
    return (
        "/" in text
        or os.sep in text
        or text.endswith(SUFFIXES)
        or text == "."
        or Path(text).exists()
    )


@contextlib.contextmanager
def fetched(address: str, flag: str) -> Iterator[Path]:
    """Makes the file or folder at `address` available as a local path.

    Args:
      address: a local path or any fsspec URL; a remote file is copied for as long as needed.
      flag: the flag that names it, for the message.

    Yields:
      The local path, with the name of the original.

    Raises:
      UsageError: when it does not exist or cannot be fetched.
    """
    if "://" not in address:
        local = Path(address).expanduser()
        if not local.exists():
            raise UsageError(
                f"{flag}: there is no file or folder {address!r}"
                f"{did_you_mean(address, beside(address))}; check the path"
                + (" (a bare name must be one of keras.applications)" if flag == "--model" else "")
            )
        yield local
        return
    with tempfile.TemporaryDirectory(prefix="hoarfrost-") as folder:
        yield _fetch(address, Path(folder), flag)


def _fetch(address: str, folder: Path, flag: str) -> Path:
    import fsspec

    # `ImportError`: the protocol's package is missing; `ValueError`: unknown protocol.
    try:
        filesystem, path = fsspec.core.url_to_fs(address)
        found = entry(filesystem, path)
        if found is None:
            raise UsageError(f"{flag}: there is no file or folder {address!r}; check the address")
        local = folder / (path.rstrip("/").rsplit("/", 1)[-1] or "model")
        download(filesystem, found, local)
    except (OSError, ValueError, ImportError) as error:
        raise UsageError(
            f"{flag}: cannot fetch {address!r} ({cause(error)}); check the address, the network "
            "and the credentials"
        ) from error
    return local


def local_files(folder: Path) -> list[Path]:
    """Returns the files below a local folder, sorted.

    Raises:
      OSError: for a folder that cannot be listed, which `Path.rglob` would skip in silence.
    """

    def fail(error: OSError) -> None:
        raise error

    listed = (
        Path(above, name) for above, _, names in os.walk(folder, onerror=fail) for name in names
    )
    return sorted(path for path in listed if path.is_file())


def file_digest(address: str, flag: str) -> str:
    """Returns 64 hex digits: the sha256 of a file, or of a folder's files with their names."""
    with fetched(address, flag) as path:
        return _digest_of(str(path), *_fingerprint(path))


def _fingerprint(path: Path) -> tuple[int, int]:
    files = [path] if path.is_file() else local_files(path)
    stats = [file.stat() for file in files]
    return sum(stat.st_size for stat in stats), sum(stat.st_mtime_ns for stat in stats)


@functools.lru_cache(maxsize=32)
def _digest_of(path: str, size: int, changed: int) -> str:
    # Size and time belong to the cache's key, so that a changed file is read again.
    root = Path(path)
    digest = hashlib.sha256()
    for file in [root] if root.is_file() else local_files(root):
        if file is not root:
            digest.update(f"{file.relative_to(root).as_posix()}\0".encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def saved_config(path: Path) -> Any | None:
    """Reads the configuration of a saved model without building the model.

    Args:
      path: a local file.

    Returns:
      The parsed JSON, or None when the file holds weights only.

    Raises:
      OSError, ValueError, KeyError, zipfile.BadZipFile: for any other file.
    """
    with path.open("rb") as file:
        magic = file.read(8)
    if magic == _HDF5_MAGIC:
        import h5py

        with h5py.File(path, "r") as hdf5:
            config = hdf5.attrs.get("model_config")
        return None if config is None else json.loads(config)
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("config.json"))


def lambda_names(config: Any) -> Iterator[str]:
    """Yields the names of Lambda layers, also in nested models and wrappers."""
    if isinstance(config, dict):
        if config.get("class_name") in ("Lambda", "__lambda__"):
            inner = config.get("config")
            yield str(inner.get("name", "lambda") if isinstance(inner, dict) else "lambda")
            return
        for value in config.values():
            yield from lambda_names(value)
    elif isinstance(config, list):
        for value in config:
            yield from lambda_names(value)


def load_saved(path: Path, label: str, trust_model: bool = False) -> keras.Model:
    """Loads a `.keras` or `.h5` file, uncompiled.

    Args:
      path: the local file.
      label: the file as the user named it.
      trust_model: whether Lambda layers, which run Python code in the file, are allowed.

    Raises:
      UsageError: when the file is unsafe, damaged, or not a model.
    """
    try:
        config = saved_config(path)
        unsafe = sorted(set(lambda_names(config)))
        if unsafe and not trust_model:
            raise UsageError(
                f"--model: {label!r} contains Lambda layers ({', '.join(unsafe)}), which run "
                "Python code stored in the file; pass --trust_model if you trust its source"
            )
        if config is None:
            raise UsageError(
                f"--model: {label!r} holds weights only; give the base that they belong to as "
                f"--model, and the file as --weights {label}"
            )
        return load_checked(path, trust_model)
    except UsageError:
        raise
    except UNREADABLE as error:
        raise UsageError(
            f"--model: cannot read {label!r} as a Keras model ({cause(error)}); give a .keras or "
            ".h5 file written by model.save(), a SavedModel folder, or a keras.applications name"
        ) from error


def load_checked(path: Path, trust_model: bool) -> keras.Model:
    """Loads a file that was checked for Lambda layers; raises whatever Keras raises."""
    keras = import_keras()
    with path.open("rb") as file:
        suffix = ".h5" if file.read(8) == _HDF5_MAGIC else ".keras"
    with contextlib.ExitStack() as stack:
        if path.suffix != suffix:
            # Keras chooses the format by the file's name; the content decides here.
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="hoarfrost-"))
            path = Path(shutil.copyfile(path, Path(folder) / f"model{suffix}"))
        return keras.models.load_model(path, compile=False, safe_mode=not trust_model)
