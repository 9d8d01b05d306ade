"""The folder of a training run: its files, and how they are written and read.

    RUN/
      run.json                       the store's spec, classes, heads, hyperparameters; written last
      heads/<head_id>.keras          features -> probabilities
      history/<head_id>.json         loss and accuracy of every epoch
      plots/<head_id>-history.png
      leaderboard.json, .csv         all heads by validation loss; the first is the default
      summary.json
      checkpoint/                    the state of an unfinished training
      model/<weights_hash>.keras     a copy of the store's base: prediction needs only the run
      evaluation/<split>-<head_id>.json, .png
      calibration/<head_id>.json     the temperature of its probabilities
      learning/<split>-<head_id>.json
      report.html                    the results on one page
      card.md                        the model card, whose last section is filled in by hand

``run.json`` is the commit: without it a run is unfinished. `classifier.runs.output` decides which
files a new run may replace.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.features.tally import shorten
from classifier.heads.head import forward, logits_model
from classifier.heads.headgraph import HeadGraph
from classifier.heads.stacked.checkpoint import FOLDER
from classifier.runs import headfile
from classifier.runs.sweep import FOLDER as TAPS_FOLDER
from classifier.runs.sweep import TAPS, read_taps
from featurestore.errors import CorruptStore, UsageError, cause, unknown_choice
from featurestore.io.storage import Storage
from featurestore.spec import StoreSpec

if TYPE_CHECKING:
    import keras

RUN = "run.json"
SUMMARY = "summary.json"
LEADERBOARD = "leaderboard.json"
REPORT = "report.html"
CARD = "card.md"
FORMAT_VERSION = 1
# Instead of the syntax of `--head`: a head that `classifier.adopt` made.
ADOPTED = "adopted"
# The options of a run that was fine-tuned have this key.
FINETUNED = "finetuned"
# The content of a run's folder besides its commit.
CONTENT = (
    "heads", "history", "plots", "evaluation", "calibration", "learning", "model", REPORT, CARD,
    FOLDER, TAPS, TAPS_FOLDER, LEADERBOARD, "leaderboard.csv", SUMMARY,
)  # fmt: skip


@dataclass(frozen=True)
class RunConfig:
    """The content of ``run.json``: the data and the settings of a training.

    Attributes:
      spec: of the store, with its identity.
      store_url: the store's address, without credentials; "" for an adopted classifier.
      classes: label of each class index.
      heads: head_id -> the head in the syntax of `--head`; of the saved heads.
      options: hyperparameters by their flag names.
      carve: boundary of the validation carve, "" when the store had a validation split.
      version: of Hoarfrost.
      aliases: other label that images may have, such as an id or a number -> the class.
    """

    spec: StoreSpec
    store_url: str
    classes: tuple[str, ...]
    heads: Mapping[str, str]
    options: Mapping[str, Any] = field(default_factory=dict)
    carve: str = ""
    version: str = ""
    aliases: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Returns the text of ``run.json``."""
        record = {
            "format": "hoarfrost-run",
            "format_version": FORMAT_VERSION,
            **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)},
            "spec": json.loads(self.spec.to_json()),
        }
        return dump_json(record)

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> RunConfig:
        """Reads ``run.json``.

        Raises:
          CorruptStore: when the text is not a run's, or has another format version.
        """
        try:
            record = json.loads(text)
            version = record.pop("format_version")
            if record.pop("format") != "hoarfrost-run" or version != FORMAT_VERSION:
                raise CorruptStore(
                    f"{where}: run format {version}, but this Hoarfrost reads {FORMAT_VERSION}; "
                    "install the release that wrote it, or train again"
                )
            record["spec"] = StoreSpec.from_json(json.dumps(record["spec"]), where)
            record["classes"] = tuple(record["classes"])
            return cls(**record)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptStore(
                f"{where}: not a training run ({type(error).__name__}: {error}); train again"
            ) from error


@dataclass(frozen=True)
class Run:
    """A finished run, open for evaluation and prediction.

    Attributes:
      storage: its folder.
      config: the content of ``run.json``.
    """

    storage: Storage
    config: RunConfig

    @property
    def url(self) -> str:
        """The folder's address without credentials."""
        return self.storage.public_url

    @property
    def spec(self) -> StoreSpec:
        """The spec of the features that its heads take."""
        return self.config.spec

    @property
    def classes(self) -> tuple[str, ...]:
        """Label of each class index."""
        return self.config.classes

    def meant_by(self, labels: Iterable[str]) -> tuple[str, ...]:
        """Returns the classes that an image's labels mean; other labels stay as they are."""
        return meant_by(self.config.aliases, labels)

    @property
    def multi_label(self) -> bool:
        """Whether a row may have several classes."""
        return self.config.options.get("multi_label") == "on"

    def leaderboard(self) -> list[dict[str, Any]]:
        """Returns one record per head, best first; ``kept`` says whether it was saved.

        Raises:
          CorruptStore: when the file is missing or damaged.
        """
        try:
            board = json.loads(self.storage.read(LEADERBOARD))
            saved = {row["head_id"] for row in board if row.get("kept", True)}
            if not saved or not saved <= set(self.config.heads):
                raise ValueError("it does not list the run's heads")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptStore(
                f"{self.url}/{LEADERBOARD} cannot be read ({cause(error)}); train again"
            ) from error
        return board

    def head_id(self, wanted: str | None = None) -> str:
        """Returns `wanted` if the run has it; by default the first of the leaderboard.

        Raises:
          UsageError: listing the heads of the run.
        """
        if wanted is None:
            return self.leaderboard()[0]["head_id"]
        if wanted in self.config.heads:
            return wanted
        for row in self.leaderboard():
            if row["head_id"] == wanted:
                raise UsageError(
                    f"--head_id: {wanted!r} was trained but not saved: it is number {row['rank']} "
                    "by validation loss, beyond --keep; choose from "
                    f"{shorten(list(self.config.heads))}, or train again with --keep {row['rank']}"
                )
        raise unknown_choice("--head_id", wanted, list(self.config.heads))

    def read_head(self, head_id: str) -> HeadGraph:
        """Returns a trained head: features -> probabilities.

        Raises:
          CorruptStore: when the file is missing or damaged.
        """
        return headfile.read_head(self.storage, head_id)

    def logits_of(self, head_id: str) -> Callable[[np.ndarray], np.ndarray]:
        """Returns a function from features, float (n, *feature_shape), to logits, float32 (n, k).

        NumPy runs the head; only if it has layers that NumPy does not know, such as convolutions,
        Keras does.

        Raises:
          CorruptStore: when the file is missing or damaged.
        """
        head = self.read_head(head_id)
        return head.logits if head.is_known else forward(logits_model(self.load_head(head_id)))

    def load_head(self, head_id: str) -> keras.Model:
        """Returns a trained head as a Keras model.

        Raises:
          CorruptStore: when the file is missing or damaged.
        """
        return headfile.load_head(self.storage, head_id)


def meant_by(aliases: Mapping[str, str], labels: Iterable[str]) -> tuple[str, ...]:
    """Returns labels with the names that they are aliases of, each once.

    Example:
      >>> meant_by({"n1": "cat", "0": "cat"}, ["n1", "0", "tail"])
      ('cat', 'tail')
    """
    return tuple(dict.fromkeys(aliases.get(label, label) for label in labels))


def history_file(head_id: str) -> str:
    """Returns the path of a head's history."""
    return f"history/{head_id}.json"


def history_plot_file(head_id: str) -> str:
    """Returns the path of a head's plot."""
    return f"plots/{head_id}-history.png"


def calibration_file(head_id: str) -> str:
    """Returns the path of a head's temperature."""
    return f"calibration/{head_id}.json"


def dump_json(record: Any) -> str:
    """Returns JSON text that any reader accepts: infinity and NaN become null."""
    return json.dumps(_finite(record), indent=2) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def load_run(url: str, storage_options: Mapping[str, Any] | None = None) -> Run:
    """Opens a finished run.

    Args:
      url: its folder, local or any fsspec URL; of a training over several taps, the best is opened.
      storage_options: for the file system.

    Raises:
      UsageError: when there is no finished run.
    """
    storage = Storage(str(url), storage_options or {})
    try:
        text = storage.read(RUN)
    except FileNotFoundError as error:
        if taps := read_taps(storage):
            return load_run(f"{storage.url}/{next(iter(taps.values()))}", storage_options)
        raise UsageError(
            f"--run: no finished training run at {storage.public_url!r}: {RUN} is missing; make "
            "one with python -m classifier.train"
        ) from error
    except (OSError, ValueError) as error:
        raise UsageError(f"--run: cannot read {storage.public_url!r}: {error}") from error
    return Run(storage, RunConfig.from_json(text, f"{storage.public_url}/{RUN}"))


def write_leaderboard(storage: Storage, records: Sequence[Mapping[str, Any]]) -> None:
    """Writes the ranked heads as JSON and CSV."""
    storage.write(LEADERBOARD, dump_json(list(records)))
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    storage.write("leaderboard.csv", text.getvalue())
