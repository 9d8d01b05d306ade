"""The files of an ONNX or OpenVINO graph: a store keeps them as they are, in one zip.

An OpenVINO ``.xml`` has its weights in a ``.bin`` beside it. ONNX keeps weights inside, or in other
files that it names. Neither format can hold Python code.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from classifier.cachefolder import zipped
from classifier.runtime import openvino_core, standard_error_held
from featurestore.errors import CorruptStore, UsageError, cause, did_you_mean, one_line

# Files that OpenVINO reads, and TensorFlow does not.
ONNX = ".onnx"
_SUFFIXES = (ONNX, ".xml")
# ONNX's field `external_data`, an entry of key "location", as Protocol Buffers write it.
_LOCATION = re.compile(rb"\x0a\x08location\x12([\x01-\x7f])")


def is_graph_file(address: str) -> bool:
    """Returns whether a base is an ONNX or OpenVINO graph, by the suffix of its file.

    Example:
      >>> is_graph_file("vit.ONNX"), is_graph_file("VGG16")
      (True, False)
    """
    return address.casefold().endswith(_SUFFIXES)


def is_onnx_file(address: str) -> bool:
    """Returns whether a base is an ONNX graph, which ONNX Runtime can run too."""
    return address.casefold().endswith(ONNX)


@dataclass(frozen=True)
class GraphFiles:
    """A graph with its weights.

    Attributes:
      name: of the graph's file; the first of `files`.
      files: name -> content; the graph's own file is called ``graph.onnx`` or ``graph.xml``.
    """

    name: str
    files: Mapping[str, bytes] = field(repr=False)

    @cached_property
    def digest(self) -> str:
        """32 hex digits: the first of the file's sha256; over all files where there are several."""
        contents = list(self.files.values())
        if len(contents) > 1:
            parts = [(name, hashlib.sha256(data).digest()) for name, data in self.files.items()]
            contents = [b"".join(name.encode() + b"\0" + data for name, data in parts)]
        return hashlib.sha256(contents[0]).hexdigest()[:32]

    def open(self) -> Any:
        """Reads the graph in OpenVINO.

        Returns:
          An `openvino.Model` of the caller's own.

        Raises:
          UsageError: when it cannot be read.
        """
        core = openvino_core()
        with self.written() as path:
            # Its frontends print their guesses at a damaged file.
            with standard_error_held():
                try:
                    return core.read_model(path)
                # They have no exception class of their own.
                except Exception as error:
                    raise UsageError(
                        f"--model: OpenVINO cannot read {self.name!r} ({reason(error)}); export "
                        "it again, with an ONNX opset of 18, and check it by "
                        "onnx.checker.check_model"
                    ) from error

    @contextmanager
    def written(self) -> Iterator[Path]:
        """Writes all files into a temporary folder; yields the path of the graph's own."""
        with tempfile.TemporaryDirectory(prefix="hoarfrost-") as folder:
            for name, data in self.files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            yield Path(folder, next(iter(self.files)))

    def packed(self) -> bytes:
        """Returns all files as one zip, the graph's own first; equal files give equal bytes."""
        return zipped(self.files.items())

    @classmethod
    def unpacked(cls, data: bytes, name: str, digest: str, where: str) -> GraphFiles:
        """Reads what `packed` gave.

        Args:
          data: the zip.
          name: of the graph's file, as the user knows it.
          digest: what the files must give.
          where: the zip's address, for the message.

        Raises:
          CorruptStore: for a damaged zip, or other files.
        """
        fix = "restore it from a backup, or extract into a new store"
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                files = cls(name, {entry: archive.read(entry) for entry in archive.namelist()})
        except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
            raise CorruptStore(
                f"the stored base {where} cannot be read ({cause(error)}); {fix}"
            ) from error
        if not files.files or files.digest != digest:
            raise CorruptStore(
                f"the stored base {where} holds other files than its spec says ({digest}); {fix}"
            )
        return files


def reason(error: Exception) -> str:
    """Returns what an exception of OpenVINO says, without the places in its source code."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    places = ("Exception from", "Check '", "While validating")
    told = [line for line in lines if not line.startswith(places)]
    return one_line(RuntimeError(" ".join(told or lines)), 200)


def read_graph(address: str) -> GraphFiles:
    """Reads a graph and the files that it needs.

    Args:
      address: of a ``.onnx`` or ``.xml`` file: a local path or any fsspec URL.

    Raises:
      UsageError: when a file is missing or cannot be read.
    """
    folder, name = os.path.split(address)
    data = read_beside(folder, name)
    if data is None:
        names = sorted(os.listdir(folder or ".")) if os.path.isdir(folder or ".") else []
        near = [one for one in names if is_graph_file(one)]
        raise UsageError(
            f"--model: there is no file {address!r}{did_you_mean(name, near)}; check the path"
        )
    stem, suffix = os.path.splitext(name)
    if suffix.casefold() == ".xml":
        weights = read_beside(folder, stem + ".bin")
        if weights is None:
            raise UsageError(
                f"--model: the weights of {name!r} are missing: OpenVINO writes them as "
                f"{stem + '.bin'!r} beside it; copy that file too"
            )
        return GraphFiles(name, {"graph.xml": data, "graph.bin": weights})
    files = {"graph.onnx": data}
    for other in _external(data):
        content = None if _leaves(other) else read_beside(folder, other)
        if content is None:
            raise UsageError(
                f"--model: {name!r} keeps weights in {other!r}, which is not beside it; copy that "
                "file too, or save the model as one file"
            )
        files[other] = content
    return GraphFiles(name, files)


def _leaves(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or name in ("graph.onnx", "")


def _external(data: bytes) -> list[str]:
    """Returns the names of the files in which an ONNX graph keeps weights."""
    found = {data[m.end() : m.end() + m.group(1)[0]] for m in _LOCATION.finditer(data)}
    return sorted(name.decode("utf-8", "replace") for name in found)


def read_beside(folder: str, name: str) -> bytes | None:
    """Reads a small or large file of a folder; None if there is none.

    Args:
      folder: a local path or any fsspec URL; "" for the current folder.
      name: of the file in it.

    Raises:
      UsageError: when the folder cannot be reached.
    """
    import fsspec

    address = f"{folder}/{name}" if folder else name
    # `ImportError`: the protocol's package is missing; `ValueError`: unknown protocol.
    try:
        filesystem, path = fsspec.core.url_to_fs(os.path.expanduser(address))
        return filesystem.cat_file(path)
    except (FileNotFoundError, IsADirectoryError):
        return None
    except (OSError, ValueError, ImportError) as error:
        raise UsageError(
            f"--model: cannot read {address!r} ({cause(error)}); check the address, the network "
            "and the credentials"
        ) from error
