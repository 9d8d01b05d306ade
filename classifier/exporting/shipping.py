"""Exports a run: builds the whole model, writes it, compares the file with the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from classifier.engines import StoredBase
from classifier.exporting import place
from classifier.exporting.about import fingerprint_of, read_about, texts_of
from classifier.exporting.comparison import Comparison, compare
from classifier.exporting.encoded import obstacle
from classifier.exporting.images import Named, drawn_images, probe_images, store_images
from classifier.exporting.options import ExportOptions, limits_of
from classifier.exporting.served import Served
from classifier.exporting.whole import DROP_CASTS, model_of_features, whole_model
from classifier.exporting.writers import Package, require_packages, write
from classifier.judgement.prediction import classifier_of
from classifier.reporting.card import card_of, read_card
from classifier.reporting.material import gather
from classifier.runs.run import Run
from featurestore.errors import UsageError, one_line

# Fewer images tell a quantiser too little.
LEAST_CALIBRATION = 10
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Shipped:
    """An exported file and its proof.

    Attributes:
      path: where the file is; for a refused one, under another name.
      size: in bytes.
      comparison: of the file with the run.
    """

    path: Path
    size: int
    comparison: Comparison

    def to_record(self) -> dict[str, Any]:
        """Returns the report as JSON values."""
        about = read_about(self.path)
        return {
            "file": str(self.path),
            "bytes": self.size,
            **{name: about[name] for name in ("export", "run", "head_id", "fingerprint")},
            "temperature": about["temperature"],
            **self.comparison.to_record(),
        }


def ship(run: Run, head_id: str, temperature: float, options: ExportOptions, tell: Tell) -> Shipped:
    """Exports a head with its base, and compares the file with extraction and head.

    Args:
      run: that trained the head.
      head_id: of the head.
      temperature: of the probabilities.
      options: format, precision and place.
      tell: takes lines for the user.

    Raises:
      UsageError: for a format that cannot hold this model, or a place that is taken.
      RunFailed: when the file does not run in a process of its own.
    """
    base = StoredBase(run.storage, run.spec, options.trust_model)
    if base.is_graph and options.format != "openvino":
        raise UsageError(
            f"--format {options.format}: the base {run.spec.base.model!r} is an ONNX or OpenVINO "
            "graph, which this format is not written from; use --format openvino"
        )
    require_packages(options.format)
    place.require_free(options.output, options.overwrite)
    probes = list(probe_images(run))
    wanted = options.rows * (2 if options.precision == "int8" else 1)
    if options.images:
        drawn = drawn_images(options.images, wanted, run.spec.pixels, run.storage.options, tell)
    else:
        drawn = store_images(run, wanted, tell)
    calibration, held_out = _divided(drawn, options)
    card = card_of(gather(run), read_card(run), head_id)
    head, rest = run.load_head(head_id), (run.spec, run.multi_label, temperature)
    if base.is_graph:
        model, graph = model_of_features(head, *rest), base.graph()
    else:
        keeps_casts = options.format not in DROP_CASTS
        model, graph = whole_model(base.load(), head, *rest, keeps_casts), None
    texts = texts_of(run, head_id, temperature, options, card)
    package = Package(model, run.spec.pixels, texts, calibration, graph)
    if options.format == "savedmodel" and (reason := obstacle(run.spec.pixels)):
        tell(f"note: without the signature serving_bytes, which takes image files: {reason}")
    with place.drafts(options.output) as folder:
        draft = folder / options.output.name
        tell(f"writing {options.label}")
        write(package, draft, options)
        images = [*probes, *held_out]
        tell(f"comparing it with the run on {len(images)} images")
        comparison = compare_file(run, draft, images, tell, options.trust_model)
        path = place.refused_place(options.output) if comparison.excess else options.output
        size = place.settle(folder, path)
    return Shipped(path, size, comparison)


def compare_file(
    run: Run, path: Path, images: Iterable[Named], tell: Tell, trust_model: bool = False
) -> Comparison:
    """Compares an exported file with the run that it came from.

    Args:
      run: the file's.
      path: of the file, or of the folder of a SavedModel.
      images: (name, uint8 (H, W, 3)) pairs.
      tell: takes lines for the user.
      trust_model: whether Lambda layers may run.

    Raises:
      UsageError: for a file of another run, or of an earlier training into its folder.
      RunFailed: when the file does not run in a process of its own, or there are no images.
    """
    about = read_about(path)
    try:
        head_id, temperature = about["head_id"], float(about["temperature"])
        format, precision = about["export"]["format"], about["export"]["precision"]
        known = about["fingerprint"]
    except (LookupError, TypeError, ValueError) as error:
        raise UsageError(
            f"--model: {str(path)!r} has a damaged record of its run "
            f"({one_line(error)}); export it again"
        ) from error
    now = fingerprint_of(run, run.head_id(head_id), temperature)
    if now != known:
        raise UsageError(
            f"--model: {str(path)!r} was exported from other features, classes or weights than "
            f"{head_id} of {run.url} has (fingerprint {known}, here {now}); give its own run, or "
            "export it again"
        )
    truth_of = classifier_of(run, head_id, tell, trust_model, temperature)
    comparison = Comparison(limits_of(precision, run.spec), run.classes)
    with Served(format, path, trust_model) as served:
        return compare(comparison, served, truth_of, images)


def _divided(images: list[Named], options: ExportOptions) -> tuple[np.ndarray, list[Named]]:
    """Divides images: every second one calibrates int8, the others are compared."""
    if options.precision != "int8":
        return np.empty(0, np.uint8), images
    some = [pixels for _, pixels in images[::2]]
    if len(some) < LEAST_CALIBRATION:
        raise UsageError(
            f"--precision int8 is calibrated on images of the store, and only {len(images)} of "
            f"them can be read; at least {2 * LEAST_CALIBRATION} are needed (--rows, and a store "
            "whose images are where they were, or --input), or use --precision dynamic"
        )
    return np.stack(some), images[1::2]
