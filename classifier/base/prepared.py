"""A base that is ready for a store; a machine prepares it once.

Building a base starts TensorFlow and Keras, which takes longer than a few hundred images do. So
the cut base, as a store keeps it, stays on this machine with what a spec says of it. A later run
with the same request takes both from there, unless a release or a weights file has changed.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifier.base.build import FrozenBase
from classifier.base.request import BaseRequest
from classifier.base.stored import save_base, zipped
from classifier.base.weights import packaged_weights
from classifier.cachefolder import CacheFolder
from featurestore.spec import BaseSpec
from featurestore.taps import cut_hashes

if TYPE_CHECKING:
    import keras

_BASE, _FACTS = "base.keras", "facts.json"
CACHE = CacheFolder("bases", (_BASE, _FACTS), most=8)


@dataclass(frozen=True)
class PreparedBase:
    """A cut base with its weights.

    Attributes:
      spec: the base's record in the store's spec.
      image_size: (height, width) in pixels.
      feature_shape: of one row after pooling, such as (5, 5, 512) or (512,).
      notes: lines that tell the user what was chosen automatically.
      data: the file that a store keeps.
      cuts: weights_hash -> the file of the base cut at one tap alone, which a store keeps too.
      model: the base in Keras, if it was built just now.
    """

    spec: BaseSpec
    image_size: tuple[int, int]
    feature_shape: tuple[int, ...]
    notes: tuple[str, ...]
    data: bytes = field(repr=False)
    cuts: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    model: keras.Model | None = field(default=None, repr=False)


def kept_base(request: BaseRequest, *, allow_packaged: bool = False) -> PreparedBase | None:
    """Returns the base that an earlier command prepared on this machine; starts no Keras.

    Args:
      request: the flags.
      allow_packaged: as for `classifier.base.build.build_base`.
    """
    kept = CACHE.read(_key(request, allow_packaged))
    if kept is None:
        return None
    with zipfile.ZipFile(io.BytesIO(kept)) as archive:
        facts, data = json.loads(archive.read(_FACTS)), archive.read(_BASE)
        spec = BaseSpec.from_record(facts.pop("spec"))
        cuts = {name: archive.read(_cut_entry(name)) for name in cut_hashes(spec)}
    values = {name: tuple(value) for name, value in facts.items()}
    return PreparedBase(spec, **values, data=data, cuts=cuts)


def keep_base(
    base: FrozenBase, request: BaseRequest, *, allow_packaged: bool = False
) -> PreparedBase:
    """Keeps a built base for later commands.

    Args:
      base: what `classifier.base.build.build_base` built.
      request: the flags.
      allow_packaged: as for `build_base`.
    """
    data = _file_of(base)
    cuts = {name: _file_of(dataclasses.replace(base, model=m)) for name, m in base.cuts.items()}
    facts = {
        "spec": base.spec.to_record(),
        "image_size": base.image_size,
        "feature_shape": base.feature_shape,
        "notes": base.notes,
    }
    entries = [(_FACTS, json.dumps(facts).encode()), (_BASE, data)]
    entries += [(_cut_entry(name), content) for name, content in cuts.items()]
    CACHE.keep(_key(request, allow_packaged), zipped(entries))
    return PreparedBase(
        base.spec, base.image_size, base.feature_shape, base.notes, data, cuts, base.model
    )


def _file_of(base: FrozenBase) -> bytes:
    with tempfile.TemporaryDirectory(prefix="hoarfrost-") as folder:
        path = Path(folder) / _BASE
        save_base(base, path)
        return path.read_bytes()


def _cut_entry(weights_hash: str) -> str:
    return f"cuts/{weights_hash}.keras"


def _key(request: BaseRequest, allow_packaged: bool) -> list[Any]:
    """Returns what a prepared base depends on: the request, the releases, the weights on disk."""
    libraries = {name: version(name) for name in ("tensorflow", "keras", "numpy")}
    if request.is_preset:
        libraries["keras-hub"] = version("keras-hub")
    home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    files = sorted(Path(home, "models").glob("*")) if request.weights == "imagenet" else []
    if application := request.application:
        packaged = packaged_weights(application.name) if allow_packaged else None
        files += [packaged] if packaged else []
    states = [(str(path), status.st_size, status.st_mtime_ns) for path, status in _existing(files)]
    return [1, request.digest, request.trust_model, allow_packaged, libraries, states]


def _existing(files: list[Path]) -> list[tuple[Path, os.stat_result]]:
    return [(path, path.stat()) for path in files if path.is_file()]
