"""What an exported file says of itself: classes, spec, fingerprint and card, inside the file.

Each format has a place for such texts. A ``.keras`` file is a zip and takes further entries. A zip
is appended to a ``.tflite`` file, where TensorFlow's own tools look for labels too. A SavedModel
has the folder ``assets.extra``, OpenVINO's ``.xml`` the section ``rt_info``, and ONNX
``metadata_props``.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from classifier.exporting.options import ExportOptions
from classifier.runs.headfile import head_file
from classifier.runs.run import Run
from featurestore import __version__
from featurestore.errors import UsageError, one_line
from featurestore.numerics import digest

ABOUT, LABELS, CARD = "hoarfrost.json", "labels.txt", "card.md"
FORMAT = "hoarfrost-export"
_EXTRA = "assets.extra"
_SECTION = "hoarfrost"


def fingerprint_of(run: Run, head_id: str, temperature: float) -> str:
    """Returns 16 hex digits over all that decides the probabilities: features, head, temperature.

    Args:
      run: that trained the head.
      head_id: of the head.
      temperature: of the probabilities.
    """
    head = hashlib.sha256(run.storage.read(head_file(head_id))).hexdigest()
    decisive = [run.spec.identity_hash, head, list(run.classes), temperature]
    return digest(decisive)[:16]


def texts_of(
    run: Run, head_id: str, temperature: float, options: ExportOptions, card: str
) -> dict[str, str]:
    """Returns the texts that go into a file, by name."""
    height, width = run.spec.pixels.image_size
    about = {
        "format": FORMAT,
        "format_version": 1,
        "version": __version__,
        "fingerprint": fingerprint_of(run, head_id, temperature),
        "export": {"format": options.format, "precision": options.precision},
        "run": run.url,
        "head_id": head_id,
        "head": run.config.heads[head_id],
        "classes": list(run.classes),
        "aliases": dict(run.config.aliases),
        "multi_label": run.multi_label,
        "temperature": temperature,
        "input": {"name": "pixels", "dtype": "uint8", "shape": [None, height, width, 3]},
        "output": {"name": "probabilities", "dtype": "float32", "shape": [None, len(run.classes)]},
        "spec": json.loads(run.spec.to_json()),
    }
    # One class a line, so a line break in a name is written as a space.
    labels = "".join(f"{' '.join(name.split())}\n" for name in run.classes)
    return {ABOUT: json.dumps(about, indent=2) + "\n", LABELS: labels, CARD: card}


def put_into(path: Path, texts: Mapping[str, str]) -> None:
    """Writes texts into a ``.keras`` or ``.tflite`` file, or into the folder of a SavedModel."""
    if path.is_dir():
        (path / _EXTRA).mkdir(exist_ok=True)
        for name, text in texts.items():
            (path / _EXTRA / name).write_text(text, encoding="utf-8")
        return
    with zipfile.ZipFile(path, "a") as archive:
        for name, text in texts.items():
            archive.writestr(zipfile.ZipInfo(name), text)


def put_into_openvino(model: Any, texts: Mapping[str, str]) -> None:
    """Writes texts into an OpenVINO model in memory."""
    for name, text in texts.items():
        # An XML attribute keeps no line breaks, and JSON escapes them.
        model.set_rt_info(json.dumps(text), [_SECTION, name.partition(".")[0]])


def put_into_onnx(model: Any, texts: Mapping[str, str]) -> None:
    """Writes texts into an ONNX model in memory."""
    for name, text in texts.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, text


def read_about(path: Path) -> dict[str, Any]:
    """Returns what an exported file says of itself.

    Raises:
      UsageError: for a file that Hoarfrost did not export, or that cannot be read.
    """
    if not path.exists():
        raise UsageError(f"--model: there is no file or folder {str(path)!r}; check the path")
    try:
        about = json.loads(_text(path))
        if about["format"] != FORMAT:
            raise ValueError("it holds another record")
    except (OSError, ValueError, LookupError, TypeError, SyntaxError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"--model: {str(path)!r} does not say which run it came from ({one_line(error, 200)}); "
            "give a file that python -m classifier.export wrote"
        ) from error
    return about


def _text(path: Path) -> str:
    if path.is_dir():
        return (path / _EXTRA / ABOUT).read_text(encoding="utf-8")
    if path.suffix == ".xml":
        found = ElementTree.parse(path).find(f"./rt_info/{_SECTION}/{ABOUT.partition('.')[0]}")
        if found is None:
            raise LookupError("its rt_info has no such section")
        return json.loads(found.attrib["value"])
    if path.suffix == ".onnx":
        return _onnx_text(path)
    with zipfile.ZipFile(path) as archive:
        return archive.read(ABOUT).decode()


def _onnx_text(path: Path) -> str:
    try:
        import onnx
    except ImportError as error:
        raise LookupError(
            "the package onnx is not installed: pip install 'hoarfrost[onnx]'"
        ) from error
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        raise ValueError("it is not an ONNX file") from error
    return {entry.key: entry.value for entry in model.metadata_props}[ABOUT]
