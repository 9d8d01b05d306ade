"""Cuts the network of a request at its layer: an application, a saved file or a SavedModel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classifier.base import backbone, families, graph, layers, preprocess, saved, stored, weights
from classifier.base.signatures import signatures_of
from classifier.presets.preset import load_backbone, read_backbone, written
from classifier.runtime import import_keras
from featurestore.errors import UsageError, cause

if TYPE_CHECKING:
    import keras

    from classifier.base.request import BaseRequest


@dataclass(frozen=True)
class Cut:
    """A network cut at a layer, without preprocessing and pooling.

    Attributes:
      model: from float32 (n, H, W, 3 or 1) to the layer's output.
      layer: the canonical path of the cut.
      weights: their origin, for the user.
      mode: (preprocessing, reason), or None when it is unknown.
      notes: lines for the user.
      outputs: of a network that was cut at several taps: the number of the output of each tap.
      singles: the same network cut at each tap alone.
    """

    model: keras.Model
    layer: str
    weights: str
    mode: tuple[str, str] | None
    notes: tuple[str, ...]
    outputs: tuple[int, ...] = ()
    singles: tuple[Cut, ...] = ()


def cut_application(
    request: BaseRequest, application: families.Application, allow_packaged: bool
) -> Cut:
    """Cuts a `keras.applications` base, with the weights that the request names."""
    tops = [each.layer for each in request.singles if layers.is_top_layer(each.layer)]
    top, side = bool(tops), families.keras_image_size(application)
    if top and request.size != (side, side):
        raise UsageError(
            f"--layer {tops[0]}: belongs to the classification top of {application.name}, "
            f"which takes {side}x{side} only, got --image_size {request.size[0]}x{request.size[1]}"
        )
    model, source, notes = _weighted(request, application, top, allow_packaged)
    if top and request.image_size is None and side != application.image_size:
        notes = (*notes, f"image size {side}x{side}: the size that {tops[0]} was made for")
    last, mode = layers.canonical_names(model)[model.layers[-1].name], (application.preprocess, "")
    if not (request.layer or request.taps):
        note = f"layer {last}: the last one of {application.name} without its top"
        return Cut(model, last, source, mode, (*notes, note))
    asked = [last if each.layer == layers.OUTPUT else each.layer for each in request.singles]
    whole = Cut(model, "", source, mode, notes)
    return _cut_by_name(whole, asked, request.size, application.name)


def cut_preset(request: BaseRequest) -> Cut:
    """Cuts a backbone of KerasHub, with its own weights or random ones."""
    seed = request.seed if request.weights == "none" else None
    loaded = load_backbone(request.model, request.asked_size, seed)
    if seed is not None:
        # Some weights are derived when a file is read: random ones must be those of the store's.
        loaded = read_backbone(written(loaded))
    asked = [each.layer or layers.OUTPUT for each in request.singles]
    if layers.OUTPUT in asked:
        layers.require_one_output(loaded, request.model)
    source = "preset" if seed is None else f"random, seed {seed}"
    whole = Cut(backbone.network(loaded), "", source, None, ())
    return _cut_by_name(whole, asked, _file_size(request, loaded), request.model)


def _cut_by_name(whole: Cut, asked: Sequence[str], size: tuple[int, int], label: str) -> Cut:
    """Cuts a new network at layers whose names are those that a new session gives."""
    model, names = whole.model, layers.canonical_names(whole.model)
    paths = [_named_path(model, names, layer, label) for layer in asked]
    cuts = [
        replace(whole, model=_cut_at(model, [path], size, label), layer=layer)
        for path, layer in zip(paths, asked, strict=True)
    ]
    return _together(model, paths, cuts, size, label)


def _named_path(
    model: keras.Model, names: Mapping[str, str], layer: str, label: str
) -> tuple[str, ...]:
    real = {canonical: name for name, canonical in names.items()}
    try:
        return layers.find_layer(model, layers.renamed(layer, real), label)
    except UsageError:
        known = [layers.renamed(path, names) for path, *_ in layers.layer_paths(model)]
        raise layers.unknown_layer(layer, known, label) from None


def _together(
    whole: keras.Model,
    paths: Sequence[tuple[str, ...]],
    cuts: Sequence[Cut],
    size: tuple[int, int],
    label: str,
) -> Cut:
    """Returns the network cut at several layers at once; one cut is returned as it is."""
    if len(cuts) == 1:
        return cuts[0]
    modes = {cut.mode and cut.mode[0] for cut in cuts}
    if len(modes) > 1:
        raise UsageError(
            f"--preprocess auto: the layers of {label!r} look like bases of different "
            f"preprocessing ({', '.join(map(str, modes))}); give --preprocess"
        )
    distinct = list(dict.fromkeys(paths))
    outputs = tuple(map(distinct.index, paths))
    model = cuts[0].model if len(distinct) == 1 else _cut_at(whole, distinct, size, label)
    return replace(cuts[0], model=model, outputs=outputs, singles=tuple(cuts))


def _weighted(
    request: BaseRequest, application: families.Application, top: bool, allow_packaged: bool
) -> tuple[keras.Model, str, tuple[str, ...]]:
    """Returns the application's network, the origin of its weights, and notes."""
    keras = import_keras()

    def build(source: str | None) -> Any:
        make = getattr(keras.applications, application.name)
        return make(weights=source, include_top=top, input_shape=(*request.size, 3))

    name = application.name
    if request.weights == "none":
        keras.utils.set_random_seed(request.seed)
        return build(None), f"random, seed {request.seed}", ()
    if request.weights != "imagenet":
        model = build(None)
        with saved.fetched(request.weights, "--weights") as path:
            label = Path(path).name
            taken = weights.load_weights_file(model, path, label, request.trust_model)
        return model, label, (f"weights: {taken}",)
    try:
        return weights.download(lambda: build("imagenet"), name), "imagenet", ()
    except weights.ImagenetUnavailable:
        if top or not allow_packaged or weights.packaged_weights(name) is None:
            raise
    model = build(None)
    weights.set_packaged(model, name)
    package, what = weights.packaged_label(name)
    note = f"weights: ImageNet's cannot be downloaded, so those of {package} are used: {what}"
    return model, package, (note,)


def cut_file(request: BaseRequest, path: Path) -> Cut:
    """Cuts a saved network, with its own weights, those of another file, or random ones."""
    whole = saved.load_saved(path, path.name, request.trust_model)
    size = _file_size(request, whole)
    notes: tuple[str, ...] = ()
    source = "file"
    if request.weights not in ("imagenet", "none"):
        with saved.fetched(request.weights, "--weights") as other:
            source = other.name
            taken = weights.load_weights_file(whole, other, other.name, request.trust_model)
        notes = (f"weights: {taken}",)
    paths, cuts = [], []
    for each in request.singles:
        names: tuple[str, ...] = ()
        if layers.means_output(each.layer, whole):
            layers.require_one_output(whole, path.name)
            layer = graph.output_names(whole)[0]
        elif each.layer:
            names = layers.find_layer(whole, each.layer, path.name)
            layer = each.layer
        else:
            names, note = layers.default_names(whole, path.name)
            layer = names[0]
            notes = (*notes, note)
        model = _cut_at(whole, [names], size, path.name)
        # The model's own name may say which family it is of, when the cut layers do not.
        mode = preprocess.recognise(model) or preprocess.recognise(whole)
        paths.append(names)
        cuts.append(Cut(model, layer, source, mode, notes))
    if request.weights == "none":
        return _randomised(cuts, request)
    return _together(whole, paths, cuts, size, path.name)


def _randomised(cuts: Sequence[Cut], request: BaseRequest) -> Cut:
    keras = import_keras()
    if len(cuts) > 1:
        raise UsageError(
            f"--weights none: the random weights of the file {request.model!r} are drawn for one "
            f"cut, got {len(cuts)} --layer; give one, or save a file with random weights"
        )
    keras.utils.set_random_seed(request.seed)
    model, source = keras.models.clone_model(cuts[0].model), f"random, seed {request.seed}"
    return replace(cuts[0], model=model, weights=source)


def _cut_at(
    whole: keras.Model, paths: Sequence[tuple[str, ...]], size: tuple[int, int], label: str
) -> keras.Model:
    path = " and ".join("/".join(names) or layers.OUTPUT for names in paths)
    try:
        return backbone.cut(whole, paths, size)
    # Keras raises these for a shape that a layer does not accept (mostly Dense after Flatten), and
    # for a graph that it cannot rebuild.
    except (*saved.UNREADABLE, AssertionError) as error:
        own = tuple(whole.inputs[0].shape[1:3]) if whole.inputs else (None, None)
        if own != size and None not in own:
            raise UsageError(
                f"--image_size: {label!r} cut at {path} takes only {own[0]}x{own[1]}, got "
                f"{size[0]}x{size[1]} (a layer such as Dense after Flatten fixes it); leave "
                "--image_size out, or cut at an earlier --layer"
            ) from error
        raise UsageError(
            f"--layer: {label!r} cannot be cut at {path} for images of {size[0]}x{size[1]} "
            f"({cause(error)}); try another --layer or --image_size"
        ) from error


def _file_size(request: BaseRequest, model: keras.Model) -> tuple[int, int]:
    """Returns (height, width) for a saved network, after checking that it takes one image."""
    keras = import_keras()
    label = Path(request.model).name
    shapes = [tuple(tensor.shape) for tensor in getattr(model, "inputs", None) or []]
    if not isinstance(model, keras.Sequential) and not hasattr(model, "operations"):
        raise UsageError(
            f"--model: {label!r} is a {type(model).__name__} with its own call(), which cannot be "
            "cut; save it as a functional or sequential model, or export a SavedModel"
        )
    if len(shapes) > 1:
        raise UsageError(f"--model: {label!r} takes {len(shapes)} inputs; a base takes one image")
    if shapes and (len(shapes[0]) != 4 or shapes[0][3] not in (1, 3, None)):
        raise UsageError(
            f"--model: {label!r} takes inputs of shape {shapes[0][1:]}; a base takes images, "
            "(height, width, 3 or 1): wrap it in a model that converts them"
        )
    if request.asked_size is not None:
        return request.asked_size
    if not shapes or None in shapes[0][1:3]:
        raise UsageError(
            f"--image_size: {label!r} takes images of any size; give one, such as --image_size 224"
        )
    return shapes[0][1:3]


def cut_savedmodel(request: BaseRequest, path: Path) -> Cut:
    """Loads a SavedModel folder, which cannot be cut."""
    label = path.resolve().name
    stored.require_savedmodel(path, label)
    if request.taps:
        raise UsageError(
            f"--layer: the SavedModel {label!r} has its own output only, got "
            f"{len(request.taps)} layers; give a .keras file to cut"
        )
    if request.layer not in ("", layers.OUTPUT) or request.weights not in ("imagenet", "none"):
        flag = "--weights" if request.layer in ("", layers.OUTPUT) else "--layer"
        raise UsageError(
            f"{flag}: the SavedModel {label!r} is used as it is, with its own output and weights; "
            "give a .keras file to cut or to load weights into"
        )
    if request.weights == "none":
        raise UsageError(f"--weights none: the SavedModel {label!r} cannot have random weights")
    called = next(iter(signatures_of(path)), None)
    size = request.image_size or (called.image_size if called else None)
    if size is None:
        raise UsageError(
            f"--image_size: {label!r} takes images of any size; give one, such as --image_size 224"
        )
    model = stored.load_savedmodel(path, label, size)
    mode = None
    if called and called.is_hub_classifier:
        mode = "unit", f"the signature {called.name!r} is TensorFlow Hub's, for images of 0 to 1"
    return Cut(model, layers.OUTPUT, "file", mode, ())
