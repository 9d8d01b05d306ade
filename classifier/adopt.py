"""Makes a run of a complete classifier: ``python -m classifier.adopt``."""

from __future__ import annotations

import shlex
from argparse import Namespace
from collections.abc import Sequence

from classifier.base.request import BaseRequest, parse_image_size
from classifier.graphs.described import CHOICES
from classifier.runs.run import dump_json
from featurestore.cli.command import Parser, key_values, main, quiet_libraries, say
from featurestore.cli.streams import say_unless
from featurestore.fields import ALPHAS, EXIFS, FITS, RESIZES
from featurestore.io.storage import Storage

KEPT = "no run was written; give the same command again"
_BASE = ("weights", "preprocess", "image_size", "seed", "trust_model")
_PIXELS = ("fit", "resize", "alpha", "exif")
EPILOG = """\
The model is a complete classifier: a keras.applications name, whose classification top is used, a
.keras or .h5 file, or the folder of a SavedModel as TensorFlow Hub ships it. --labels names its
classes: text with one name a line (ImageNetLabels.txt), JSON (imagenet_class_index.json) or CSV.
The run serves predict, evaluate, report, export, verify and pipelines.score like any other.

examples:
  python -m classifier.adopt --model hub-folder --labels ImageNetLabels.txt --output run
  python -m classifier.adopt --model MobileNetV2 --labels imagenet_class_index.json --output run
"""


def parser() -> Parser:
    """Returns the command's arguments."""
    result = Parser(
        prog="python -m classifier.adopt",
        description="Makes a run of a complete classifier, without training.",
        epilog=EPILOG,
    )
    add = result.add_argument
    add("--model", required=True, metavar="NAME|PATH", help="see below")
    add("--labels", required=True, metavar="FILE", help="names of its classes, see below")
    add("--output", required=True, metavar="RUN", help="folder or URL of the run")
    text = "output that folders named 0, and the first name of --labels, belong to: 1 if the model "
    text += "counts a background class that they do not"
    add("--label_offset", type=int, metavar="N", help=text)
    text = "what the model ends in (default: measured on images); its probabilities stay its own"
    add("--activation", default="auto", metavar="auto|none|softmax|sigmoid", help=text)
    default = "default %(default)s"
    add("--weights", default="imagenet", metavar="imagenet|none|PATH", help=default)
    add("--preprocess", default="auto", metavar="|".join(CHOICES), help=default)
    text = "height x width; default: the model's own"
    add("--image_size", type=parse_image_size, metavar="224|224x256", help=text)
    for name, choices in zip(_PIXELS, (FITS, RESIZES, ALPHAS, EXIFS), strict=True):
        first = "ignore" if name == "exif" else choices[0]
        add(f"--{name}", default=first, metavar="|".join(choices), help=default)
    engines = "auto|tensorflow|openvino|onnxruntime"
    add("--engine", default="auto", metavar=engines, help=default)
    add("--seed", type=int, default=0, help="of random weights (default %(default)s)")
    add("--overwrite", action="store_true", help="replace a run that is at --output")
    add("--trust_model", action="store_true", help="allow Python code inside the model file")
    add("--storage_options", nargs="+", default=[], metavar="K=V", help="file system options")
    add("--json", action="store_true", help="print the summary as JSON and nothing else")
    return result


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    arguments = parser().parse_args(argv)
    file_system = key_values(arguments.storage_options, "--storage_options")
    # TensorFlow is imported only when the flags are right.
    from classifier.adopting.adoption import AdoptOptions, adopt
    from classifier.adopting.labels import read_labels

    named = {name: getattr(arguments, name) for name in _BASE}
    options = AdoptOptions(
        BaseRequest(arguments.model, layer="output", **named),
        read_labels(arguments.labels, file_system),
        {name: getattr(arguments, name) for name in _PIXELS},
        arguments.label_offset,
        arguments.activation,
        arguments.engine,
    )
    storage = Storage(arguments.output, file_system)
    summary = adopt(options, storage, arguments.overwrite, say_unless(arguments.json))
    summary["extract"] = _extraction(arguments)
    if arguments.json:
        say(dump_json(summary).rstrip())
        return 0
    say(
        f"{storage.public_url}: {arguments.model} with {len(summary['classes']):,} classes, "
        f"outputs taken for {summary['outputs']}, preprocessing {summary['preprocess']}"
    )
    if summary["aliases"]:
        say(f"{summary['aliases']:,} other labels, ids or numbers, stand for these classes too")
    say(f"to evaluate it, extract images with the same flags: {summary['extract']}")
    return 0


def _extraction(arguments: Namespace) -> str:
    """Returns the command that makes a store which the run can be evaluated on."""
    command = ["python -m pipelines.extract --input IMAGES --output STORE --layer output"]
    for name in ("model", *_BASE, *_PIXELS):
        value = getattr(arguments, name)
        if value == parser().get_default(name):
            continue
        text = "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
        command.append(f"--{name}" if value is True else f"--{name} {shlex.quote(text)}")
    return " ".join(command)


if __name__ == "__main__":
    main(run, kept=KEPT)
