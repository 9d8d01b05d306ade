"""Saved Keras models: fetching them, refusing unsafe ones, loading them.

A `.keras` or `.h5` file may carry Python byte code (Lambda layers), so its configuration is read as
text and refused before Keras sees it.
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
# What Keras, h5py and zipfile raise for bytes that are no model.
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
    """Tells a path or URL from a name: it has a separator, a model's suffix, or it exists."""
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
      address: a local path or any fsspec URL; a remote one is copied and removed afterwards.
      flag: the flag that named it, for the message.

    Yields:
      The local path, with the name of the original.

    Raises:
      UsageError: when there is nothing, or it cannot be fetched.
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

    # `ImportError`: the protocol's own package is missing; `ValueError`: unknown protocol.
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
      OSError: for a folder that cannot be listed; `Path.rglob` would leave it out.
    """

    def fail(error: OSError) -> None:
        raise error

    listed = (
        Path(above, name) for above, _, names in os.walk(folder, onerror=fail) for name in names
    )
    return sorted(path for path in listed if path.is_file())


def file_digest(address: str, flag: str) -> str:
    """Returns 64 hex digits over the bytes of a file, or of a folder's files with their names."""
    with fetched(address, flag) as path:
        return _digest_of(str(path), *_fingerprint(path))


def _fingerprint(path: Path) -> tuple[int, int]:
    files = [path] if path.is_file() else local_files(path)
    stats = [file.stat() for file in files]
    return sum(stat.st_size for stat in stats), sum(stat.st_mtime_ns for stat in stats)


@functools.lru_cache(maxsize=32)
def _digest_of(path: str, size: int, changed: int) -> str:
    # Size and time are arguments so that a changed file is read anew; they are not hashed.
    root = Path(path)
    digest = hashlib.sha256()
    for file in [root] if root.is_file() else local_files(root):
        if file is not root:
            digest.update(f"{file.relative_to(root).as_posix()}\0".encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def saved_config(path: Path) -> Any | None:
    """Reads the configuration of a whole saved model without building anything.

    Args:
      path: a local file.

    Returns:
      The parsed JSON, or None when the file holds weights only.

    Raises:
      OSError, ValueError, KeyError, zipfile.BadZipFile: when it is not a model file.
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
    """Yields the names of Lambda layers, nested models and wrappers included."""
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
      trust_model: whether Lambda layers, which run Python code of the file, are allowed.

    Raises:
      UsageError: when it is unsafe, damaged, or not a model.
    """
    try:
        config = saved_config(path)
        unsafe = sorted(set(lambda_names(config)))
        if unsafe and not trust_model:
            raise UsageError(
                f"--model: {label!r} contains Lambda layers ({', '.join(unsafe)}), which run "
                "Python code stored in the file; pass --trust_model if you know where it is from"
            )
        if config is None:
            raise UsageError(
                f"--model: {label!r} holds weights only; name the base that they belong to there, "
                f"and give an extraction --weights {label} beside it"
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
    """Loads a file that was checked for Lambda layers, with Keras's own errors."""
    keras = import_keras()
    with path.open("rb") as file:
        suffix = ".h5" if file.read(8) == _HDF5_MAGIC else ".keras"
    if path.suffix == suffix:
        return keras.models.load_model(path, compile=False, safe_mode=not trust_model)
    # Keras goes by the name; the bytes decide what a file is.
    with tempfile.TemporaryDirectory(prefix="hoarfrost-") as folder:
        copy = Path(folder) / f"model{suffix}"
        shutil.copyfile(path, copy)
        return keras.models.load_model(copy, compile=False, safe_mode=not trust_model)
