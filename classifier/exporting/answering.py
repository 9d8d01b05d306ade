"""Classifies images with an exported file, without the run that it came from."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from classifier.exporting.about import read_about
from classifier.exporting.served import Served
from classifier.judgement.prediction import Classifier
from classifier.runs.run import meant_by
from featurestore.errors import CorruptStore, UsageError, one_line
from featurestore.spec import StoreSpec


@contextmanager
def exported_classifier(path: Path, trust_model: bool = False) -> Iterator[Classifier]:
    """Opens an exported file; its framework runs in a process of its own.

    Args:
      path: of the file, or of the folder of a SavedModel.
      trust_model: whether Lambda layers may run.

    Raises:
      UsageError: for a file that Hoarfrost did not export, or whose record is damaged.
      RunFailed: when the file does not run.
    """
    about, lock = read_about(path), threading.Lock()
    try:
        spec = StoreSpec.from_json(json.dumps(about["spec"]), str(path))
        format, aliases = about["export"]["format"], about.get("aliases", {})
        head_id, run, classes = about["head_id"], about["run"], tuple(about["classes"])
        multi_label = bool(about["multi_label"])
    except (LookupError, TypeError, CorruptStore) as error:
        raise UsageError(
            f"--model: {str(path)!r} has a damaged record of its run ({one_line(error)}); export "
            "it again"
        ) from error
    with Served(format, path, trust_model) as served:

        def answer(pixels: np.ndarray) -> np.ndarray:
            # The process takes one batch at a time.
            with lock:
                return served(pixels)

        yield Classifier(
            f"{path.name} ({head_id})",
            head_id,
            run,
            classes,
            multi_label,
            spec.pixels,
            lambda labels: meant_by(aliases, labels),
            answer,
        )
