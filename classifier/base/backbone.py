"""Bases that are cut out of a backbone of KerasHub.

Keras cannot always load such a cut from a `.keras` file: the configurations of some layers of
KerasHub 0.32 lack arguments or name unknown ones, and some weights are derived when the backbone's
own file is read. So a store keeps the backbone as KerasHub saves it, with the places of the cut,
and cuts it again when it is loaded.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from classifier.base import graph, layers
from classifier.base.architecture import HELD
from classifier.base.taps import cut_several
from classifier.cachefolder import zipped
from classifier.presets.preset import read_backbone, written
from classifier.runtime import import_keras

if TYPE_CHECKING:
    import keras

FOLDER = "kerashub"
_CUT = "cut.json"


@dataclass(frozen=True)
class CutBackbone:
    """Where a network comes from.

    Attributes:
      backbone: the `keras_hub.models.Backbone`.
      paths: of the layers where it is cut; empty for the whole network.
      image_size: (height, width) in pixels of the cut network.
    """

    backbone: Any
    paths: tuple[tuple[str, ...], ...] = ()
    image_size: tuple[int, int] = (0, 0)

    @property
    def config(self) -> dict[str, Any]:
        """The settings of the backbone, without its dtype."""
        return {**self.backbone.get_config(), "dtype": None}

    def packed(self) -> bytes:
        """Returns the zip that a store keeps."""
        names = layers.canonical_names(network(self.backbone))
        paths = [(names[first], *rest) for first, *rest in self.paths]
        cut = json.dumps({"paths": paths, "image_size": self.image_size}).encode()
        files = {**written(self.backbone), _CUT: cut}
        return zipped((f"{FOLDER}/{name}", data) for name, data in files.items())

    def in_policy(self, policy: str) -> keras.Model:
        """Returns the network with other dtypes, such as ``mixed_float16``; weights are copied."""
        config = {**self.backbone.get_config(), "dtype": policy}
        other = type(self.backbone).from_config(config)
        other.set_weights(self.backbone.get_weights())
        # Layers without a name may have got another number.
        names = layers.canonical_names(network(self.backbone))
        return _cut_again(other, [(names[first], *rest) for first, *rest in self.paths], self)


def network(backbone: Any) -> keras.Model:
    """Returns a backbone as a network whose layers include the levels of its feature pyramid.

    Each level, such as ``P3`` or ``stage7``, becomes a layer of its name that changes nothing. So
    does the backbone's own output, as ``output``, if it has one.
    """
    keras = import_keras()
    ends = dict(getattr(backbone, "pyramid_outputs", {}))
    if len(backbone.outputs) == 1:
        ends[layers.OUTPUT] = backbone.outputs[0]
    taken = {layer.name for layer in backbone.layers}
    added = [
        keras.layers.Identity(name=name)(tensor)
        for name, tensor in ends.items()
        if name not in taken
    ]
    whole = keras.Model(backbone.inputs, added, name=graph.graph_name(backbone.name))
    setattr(whole, HELD, CutBackbone(backbone))
    return whole


def cut(
    whole: keras.Model, paths: Sequence[tuple[str, ...]], image_size: tuple[int, int]
) -> keras.Model:
    """Cuts any network at one layer or several; a cut backbone remembers where it comes from.

    See `classifier.base.graph.cut` and `classifier.base.taps.cut_several`.
    """
    if len(paths) > 1:
        model = cut_several(whole, paths, image_size)
    else:
        model = graph.cut(whole, paths[0], image_size)
    held = getattr(whole, HELD, None)
    if held is not None:
        held = dataclasses.replace(held, paths=tuple(paths), image_size=image_size)
        setattr(model, HELD, held)
    return model


def unpacked(files: dict[str, bytes]) -> keras.Model:
    """Returns the network of which `CutBackbone.packed` gave the files.

    Args:
      files: name without the folder -> content.

    Raises:
      UsageError: when KerasHub is not installed.
    """
    record = json.loads(files.pop(_CUT))
    backbone = read_backbone(files)
    paths = [tuple(path) for path in record["paths"]]
    return _cut_again(backbone, paths, CutBackbone(backbone, (), tuple(record["image_size"])))


def _cut_again(backbone: Any, paths: Sequence[tuple[str, ...]], held: CutBackbone) -> keras.Model:
    """Cuts a backbone at paths whose first names are canonical."""
    whole = network(backbone)
    real = {canonical: name for name, canonical in layers.canonical_names(whole).items()}
    return cut(whole, [(real[first], *rest) for first, *rest in paths], held.image_size)
