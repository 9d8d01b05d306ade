"""Lists the known bases, or the layers where one base can be cut.

python -m classifier.bases
python -m classifier.bases VGG16
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from classifier.base import cut, families, saved, unfreezing
from classifier.base.build import build_base
from classifier.base.request import PIXELS, BaseRequest, parse_image_size
from classifier.runtime import import_keras
from featurestore.cli.command import Parser, main, quiet_libraries, say
from featurestore.errors import UsageError

if TYPE_CHECKING:
    import keras

_TUNING = "bottleneck   unfreeze      trained"


def _open(request: BaseRequest) -> keras.Model:
    """Builds the whole network; an application's layers are listed with random weights."""
    import_keras()
    if request.application is not None:
        return build_base(dataclasses.replace(request, weights="none")).model
    with saved.fetched(request.model, "--model") as path:
        if path.is_dir():
            return cut.cut_savedmodel(request, path).model
        return saved.load_saved(path, path.name, request.trust_model)


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
    necks = sum(row["bottleneck"] for row in rows)
    say(
        f"{necks} bottlenecks: a store that is cut at one serves to fine-tune what follows; "
        "classifier.finetune --unfreeze N trains the last N layers, with so many parameters"
    )


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = Parser(prog="python -m classifier.bases", description=__doc__)
    text = "a keras.applications name or a saved model"
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
        record = _describe(flags.name, flags.image_size, flags.trust_model)
    except UsageError as error:
        # The message names the flag that an extraction has for this argument.
        raise type(error)(str(error).replace("--model", "NAME")) from error
    if flags.json:
        say(json.dumps(record, indent=2))
    else:
        _say_layers(record["model"], record)
    return 0


def _describe(model: str, image_size: tuple[int, int] | None, trust_model: bool) -> dict:
    if model.casefold() == PIXELS:
        raise UsageError(
            f"NAME {model!r} has no layers: it stands for the images themselves; give a name of "
            "keras.applications or a saved model"
        )
    request = BaseRequest(model=model, image_size=image_size, trust_model=trust_model)
    application = request.application
    name = application.name if application else model
    return {"model": name, **unfreezing.describe(_open(request), application is not None)}


if __name__ == "__main__":
    main(run)
