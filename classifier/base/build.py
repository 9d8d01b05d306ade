"""Builds a frozen base from a request: a network from float32 images to one layer's output.

The engine adds preprocessing and pooling to the network's graph.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from classifier.base import cut, preprocess, saved
from classifier.base.request import BaseRequest
from classifier.base.weights import weights_hash
from classifier.graphs.described import undescribed
from classifier.graphs.files import GraphFiles, read_graph
from classifier.graphs.network import Network
from classifier.graphs.scaling import scaling_of
from classifier.presets.preset import preset_name
from classifier.runtime import import_keras
from featurestore.errors import UsageError
from featurestore.fields import JOINED, Tap
from featurestore.spec import BaseSpec

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class FrozenBase:
    """A built base.

    Attributes:
      model: from preprocessed float32 (n, H, W, 3 or 1) to the cut layer's output; of a graph, its
        files.
      spec: the base's record in the store's spec.
      image_size: (height, width) in pixels.
      feature_shape: of one row after pooling, such as (5, 5, 512) or (512,).
      notes: lines that tell the user what was chosen automatically.
      cuts: weights_hash -> the base cut at one tap alone, of a base with taps.
    """

    model: keras.Model | GraphFiles
    spec: BaseSpec
    image_size: tuple[int, int]
    feature_shape: tuple[int, ...]
    notes: tuple[str, ...] = ()
    cuts: Mapping[str, keras.Model] = field(default_factory=dict, repr=False)


def build_base(request: BaseRequest, *, allow_packaged: bool = False) -> FrozenBase:
    """Builds the base of a request.

    Args:
      request: the flags.
      allow_packaged: whether weights from an installed Python package may replace ImageNet's when
        those cannot be downloaded; a note then says so.

    Returns:
      The base, cut at its layer, with its weights.

    Raises:
      ImagenetUnavailable: when ImageNet's weights cannot be downloaded.
      UsageError: for a request that cannot be met.
    """
    if request.is_graph:
        return _build_graph(request)
    import_keras()
    if request.application is not None:
        part = cut.cut_application(request, request.application, allow_packaged)
        name = request.application.name
    elif request.is_preset:
        part, name = cut.cut_preset(request), preset_name(request.model)
    else:
        with saved.fetched(request.model, "--model") as path:
            name = path.resolve().name
            from_path = cut.cut_savedmodel if path.is_dir() else cut.cut_file
            part = from_path(request, path)
    if not part.singles:
        return _base_of(request, part, name)
    singles = [
        _base_of(each, single, name)
        for each, single in zip(request.singles, part.singles, strict=True)
    ]
    whole = dataclasses.replace(
        singles[0],
        model=part.model,
        spec=dataclasses.replace(
            singles[0].spec, weights_hash=weights_hash(part.model), request=request.digest
        ),
    )
    return _with_taps(whole, singles, part.outputs)


def _with_taps(
    whole: FrozenBase, singles: Sequence[FrozenBase], outputs: Sequence[int]
) -> FrozenBase:
    """Returns the base with the taps of several bases of one layer each.

    Args:
      whole: the base with all outputs, of which shape, layer and taps are yet to be told.
      singles: the same base cut at each layer alone.
      outputs: the number of the output of each.
    """
    taps = tuple(
        Tap(base.spec.layer, base.spec.pooling, base.spec.weights_hash, base.feature_shape, output)
        for base, output in zip(singles, outputs, strict=True)
    )
    names = [tap.name for tap in taps]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UsageError(
            f"--layer {repeated[0]}: is given twice, once by another name of the same layer; give "
            "it once"
        )
    spec = dataclasses.replace(whole.spec, layer=JOINED.join(names), pooling="none", taps=taps)
    return dataclasses.replace(
        whole,
        spec=spec,
        feature_shape=(sum(tap.size for tap in taps),),
        notes=tuple(dict.fromkeys(note for base in singles for note in base.notes)),
        cuts={
            base.spec.weights_hash: base.model
            for base in singles
            if base.spec.weights_hash != spec.weights_hash
        },
    )


def _base_of(request: BaseRequest, part: cut.Cut, name: str) -> FrozenBase:
    """Returns the base of a cut at one layer; `name` is that of its network."""
    mode, notes = _preprocessing(request, part)
    channels = part.model.input_shape[-1]
    # Refuses a preprocessing that does not suit the channels.
    preprocess.preprocess_graph(mode, channels)
    if channels == 1:
        notes = (*notes, "one channel: the graph makes RGB pixels grey (ITU-R BT.601)")
    shape = tuple(part.model.output_shape)
    if None in shape[1:]:
        raise UsageError(
            f"--layer: the output of {part.layer!r} has no fixed shape, got {shape[1:]}; choose "
            "another layer"
        )
    spec = BaseSpec(
        model=name,
        weights=part.weights,
        weights_hash=weights_hash(part.model),
        layer=part.layer,
        pooling=request.pooling,
        preprocess=mode,
        request=request.digest,
    )
    height, width = part.model.input_shape[1:3]
    pooled = preprocess.pooled_shape(shape[1:], request.pooling)
    return FrozenBase(part.model, spec, (height, width), pooled, (*part.notes, *notes))


def _build_graph(request: BaseRequest) -> FrozenBase:
    """Cuts an ONNX or OpenVINO graph; starts no TensorFlow."""
    files = read_graph(request.model)
    found = request.described
    if found is None:
        raise undescribed(
            files.name,
            "copy the preprocessor_config.json (Hugging Face) or config.json (timm) of the model "
            "into its folder",
        )
    network = Network(files, request.asked_size, scaling_of(found.mode))
    notes = (found.note,) if found.source else ()
    # By the names that the spec has: a tensor may have several.
    cuts = sorted(
        ((network.layer(each.layer), each.pooling) for each in request.singles),
        key=lambda cut: (cut[0].name, cut[1]),
    )
    # Refuses layers that need more than the image.
    network.features([(layer.name, pooling) for layer, pooling in cuts])
    singles = []
    for layer, pooling in cuts:
        spec = BaseSpec(
            model=files.name,
            weights="file",
            weights_hash=files.digest,
            layer=layer.name,
            pooling=pooling,
            preprocess=found.mode,
            request=request.digest,
        )
        shape = preprocess.pooled_shape(layer.shape, pooling)
        singles.append(FrozenBase(files, spec, network.image_size, shape, notes))
    if not request.taps:
        return singles[0]
    distinct = list(dict.fromkeys(layer.name for layer, _ in cuts))
    return _with_taps(singles[0], singles, [distinct.index(layer.name) for layer, _ in cuts])


def _preprocessing(request: BaseRequest, part: cut.Cut) -> tuple[str, tuple[str, ...]]:
    if request.described is not None:
        found = request.described
        return found.mode, (found.note,) if found.source else ()
    if part.mode is None and request.is_preset:
        raise undescribed(request.model, "save its ImageConverter by save_to_preset, too")
    if part.mode is None:
        raise UsageError(
            f"--preprocess auto: {request.model!r} does not say which preprocessing it needs; give "
            "--preprocess none (it rescales inside), unit (0 to 1), tf (-1 to 1), caffe (BGR minus "
            "means) or torch (ImageNet mean and deviation)"
        )
    mode, reason = part.mode
    return mode, (f"preprocessing {mode}: {reason}",) if reason else ()
