"""Lists the known bases, or the layers where one base can be cut.

python -m classifier.bases
python -m classifier.bases VGG16

Of a SavedModel, whose layers a file does not name, the signatures are shown; of an ONNX or OpenVINO
graph, its tensors.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from classifier.base import families, saved, signatures, stored, unfreezing
from classifier.base.backbone import network
from classifier.base.build import build_base
from classifier.base.request import PIXELS, BaseRequest, parse_image_size
from classifier.graphs.files import read_graph
from classifier.graphs.network import Network
from classifier.graphs.scaling import scaling_of
from classifier.presets.preset import is_preset, load_backbone
from classifier.runtime import import_keras
from featurestore.cli.command import Parser, main, quiet_libraries, say
from featurestore.errors import UsageError

if TYPE_CHECKING:
    import keras

_TUNING = "bottleneck   unfreeze      trained"


def _open(request: BaseRequest) -> keras.Model:
    """Builds the whole network; layers of a name are listed with random weights."""
    import_keras()
    if request.is_preset:
        return network(load_backbone(request.model, request.image_size, request.seed))
    if request.application is not None:
        return build_base(dataclasses.replace(request, weights="none")).model
    with saved.fetched(request.model, "--model") as path:
        return saved.load_saved(path, path.name, request.trust_model)


def _say_signatures(found: Sequence[signatures.Signature]) -> None:
    first = found[0]
    for signature in found:
        say(str(signature))
    say(
        f"a SavedModel is used as it is, by its first signature: {first.trainable:,} trainable and "
        f"{first.non_trainable:,} non-trainable parameters; in a store all are frozen"
    )
    if first.is_hub_classifier:
        say("this is TensorFlow Hub's signature for image classification, for images of 0 to 1")


def _say_layers(name: str, record: dict) -> None:
    rows = record["layers"]
    width = max(len(row["name"]) for row in rows)
    say(f"{'layer':<{width}}  {'type':<22} {'output':<18} {'parameters':>12}  {_TUNING}")
    for row in rows:
        shape = "-" if row["output_shape"] is None else str(tuple(row["output_shape"]))
        line = f"{row['name']:<{width}}  {row['type']:<22} {shape:<18} {row['parameters']:>12,}"
        mark = "x" if row["bottleneck"] else ""
        tuned = "" if row["unfreeze"] is None else f"{row['unfreeze']:>9} {row['trained']:>12,}"
        say(f"{line}  {mark:^10}  {tuned}".rstrip())
    say(
        f"{name}: {len(rows)} layers, {record['trainable']:,} trainable and "
        f"{record['non_trainable']:,} non-trainable parameters; in a store all are frozen"
    )
    if is_preset(name):
        return
    necks = sum(row["bottleneck"] for row in rows)
    say(
        f"{necks} bottlenecks: a store that is cut at one serves to fine-tune what follows; "
        "classifier.finetune --unfreeze N trains the last N layers, with so many parameters"
    )


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = Parser(prog="python -m classifier.bases", description=__doc__)
    text = "a keras.applications name, a saved model, an ONNX or OpenVINO graph, or kerashub:PRESET"
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help=text)
    text = "the only choice: layers are listed without weights"
    add("--weights", default="none", choices=["none"], help=text)
    add("--image_size", type=parse_image_size, help="180, or 180x240 (height x width)")
    add("--trust_model", action="store_true", help="allow Lambda layers")
    add("--json", action="store_true", help="print JSON and nothing else")
    flags = parser.parse_args(argv)
    if flags.name is None:
        shown = ("name", "image_size", "min_size", "preprocess")
        bases = families.APPLICATIONS.values()
        table = [{field: getattr(base, field) for field in shown} for base in bases]
        if flags.json:
            say(json.dumps(table, indent=2))
            return 0
        say(f"{'name':<20} {'size':>5} {'minimum':>8}  preprocessing")
        for row in table:
            say("{name:<20} {image_size:>5} {min_size:>8}  {preprocess}".format(**row))
        say(f"{len(table)} bases; none means that the base preprocesses inside its graph")
        return 0
    quiet_libraries()
    try:
        _show(flags.name, flags.image_size, flags.trust_model, flags.json)
    except UsageError as error:
        # The message names the flag that an extraction has for this argument.
        raise type(error)(str(error).replace("--model", "NAME")) from error
    return 0


def _show(model: str, image_size: tuple[int, int] | None, trust_model: bool, as_json: bool) -> None:
    if model.casefold() == PIXELS:
        raise UsageError(
            f"NAME {model!r} has no layers: it stands for the images themselves; give a name of "
            "keras.applications or a saved model"
        )
    request = BaseRequest(model=model, image_size=image_size, trust_model=trust_model)
    if request.is_graph:
        _show_graph(request, as_json)
        return
    application = request.application
    name = application.name if application else model
    if application is None and not request.is_preset:
        with saved.fetched(model, "--model") as path:
            if path.is_dir():
                _show_savedmodel(name, path, as_json)
                return
    named = application is not None or request.is_preset
    record = {"model": name, **unfreezing.describe(_open(request), named)}
    if as_json:
        say(json.dumps(record, indent=2))
    else:
        _say_layers(record["model"], record)


def _show_savedmodel(name: str, path: Path, as_json: bool) -> None:
    label = path.resolve().name
    stored.require_savedmodel(path, label)
    import_keras()
    found = signatures.signatures_of(path)
    if not found:
        raise UsageError(
            f"--model: the SavedModel {label!r} cannot be read, or has nothing to call; export it "
            "again"
        )
    if as_json:
        listed = [dataclasses.asdict(signature) for signature in found]
        say(json.dumps({"model": name, "signatures": listed}, indent=2))
    else:
        _say_signatures(found)


def _show_graph(request: BaseRequest, as_json: bool) -> None:
    """Lists the tensors of a graph, in order; shapes do not depend on the preprocessing."""
    network = Network(read_graph(request.model), request.asked_size, scaling_of("none"))
    tensors = network.tensors()
    if as_json:
        listed = [dataclasses.asdict(tensor) for tensor in tensors]
        size = list(network.image_size)
        record = {"model": request.model, "image_size": size, "layout": network.layout}
        say(json.dumps({**record, "outputs": network.outputs, "tensors": listed}, indent=2))
        return
    width = max(len(tensor.name) for tensor in tensors)
    say(f"{'tensor':<{width}}  {'operation':<18} {'output':<18} layer")
    for tensor in tensors:
        mark = f"no: {tensor.obstacle}" if tensor.obstacle else "x"
        shape = str(tensor.shape or "-")
        say(f"{tensor.name:<{width}}  {tensor.operation:<18} {shape:<18} {mark}")
    height, width = network.image_size
    fit = sum(not tensor.obstacle for tensor in tensors)
    say(
        f"{request.model}: {len(tensors)} tensors, of which {fit} can be a --layer; it takes "
        f"{network.layout} images, here of {height}x{width}; shapes are those of a store, "
        "channels last"
    )
    say(f"outputs: {', '.join(network.outputs)}")


if __name__ == "__main__":
    main(run)
