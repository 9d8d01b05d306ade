"""The spec of a folder of scores: which heads of which run scored what. Needs no TensorFlow.

SCORES/
  scores.json                    the spec, written once
  parts/<chunk_id>-<checksum>.parquet   key, uri, ..., and the best classes of each head
  moment.json                    the commits of the store that are scored, if it is one
  markers/, quarantine/, manifest/, index/, runs/, plans/, summary.json   as in a store
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from classifier.runs.headfile import head_file
from classifier.runs.run import RUN, Run, dump_json
from featurestore import layout
from featurestore.errors import CorruptStore, UsageError, cannot_write
from featurestore.io.storage import Storage
from featurestore.spec import StoreSpec
from featurestore.store import FeatureStore

SCORES, MOMENT = "scores.json", "moment.json"
FORMAT, FORMAT_VERSION = "hoarfrost-scores", 1


@dataclass(frozen=True)
class ScoreSpec:
    """What the scores of a folder are.

    Attributes:
      run: address of the training run, without credentials.
      store: address of the store whose rows are scored; "" for images.
      heads: head_id -> digest of its file.
      classes: of the heads, in their order.
      multi_label: whether each probability stands for itself.
      top: classes per image.
      logits: whether the logits of all classes are kept too.
      features: the spec of the features that the heads take.
    """

    run: str
    store: str
    heads: Mapping[str, str]
    classes: tuple[str, ...]
    multi_label: bool
    top: int
    logits: bool
    features: StoreSpec

    @classmethod
    def of(
        cls, run: Run, head_ids: Sequence[str], top: int, logits: bool, store: FeatureStore | None
    ) -> ScoreSpec:
        """Returns the spec of a run's scores; see the attributes for the arguments."""
        heads = {
            head_id: hashlib.sha256(run.storage.read(head_file(head_id))).hexdigest()[:16]
            for head_id in head_ids
        }
        top, source = min(top, len(run.classes)), store.url if store else ""
        return cls(run.url, source, heads, run.classes, run.multi_label, top, logits, run.spec)

    def to_json(self) -> str:
        """Returns the text of ``scores.json``."""
        named = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        features = json.loads(self.features.to_json())
        head = {"format": FORMAT, "format_version": FORMAT_VERSION}
        return dump_json({**head, **named, "features": features})

    @classmethod
    def read(cls, storage: Storage) -> ScoreSpec:
        """Reads the spec of a folder.

        Raises:
          FileNotFoundError: when the folder holds no scores.
          CorruptStore: when its spec cannot be read.
        """
        text, where = storage.read(SCORES), f"{storage.public_url}/{SCORES}"
        try:
            record = json.loads(text)
            if (record.pop("format"), record.pop("format_version")) != (FORMAT, FORMAT_VERSION):
                raise ValueError("another format")
            record["features"] = StoreSpec.from_json(json.dumps(record["features"]), where)
            record["classes"] = tuple(record["classes"])
            return cls(**record)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptStore(
                f"{where}: not a spec of scores ({type(error).__name__}: {error}); score into a "
                "new --output"
            ) from error

    def _compared(self) -> dict[str, Any]:
        """Returns what the scores of one folder share. A run or a store may have moved."""
        heads = {f"head {name}": digest for name, digest in self.heads.items()}
        source = "a store" if self.store else "images"
        named = {name: getattr(self, name) for name in ("classes", "top", "logits")}
        return {"scores of": source, **named, **heads, "features": self.features.identity_hash}

    def require_same(self, other: ScoreSpec, where: str) -> None:
        """Refuses scores of other settings.

        Raises:
          UsageError: naming what differs.
        """
        ours, theirs = self._compared(), other._compared()
        names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
        if names:
            raise UsageError(
                f"--output: {where} holds scores with other settings, which differ in "
                f"{', '.join(names)}; repeat them, or choose another --output"
            )


def join_scores(storage: Storage, spec: ScoreSpec) -> FeatureStore:
    """Opens a folder for scores, or creates it.

    Raises:
      UsageError: when it holds something else, or cannot be written.
    """
    for name, what in ((layout.SPEC, "a feature store"), (RUN, "a training run")):
        if storage.exists(name):
            raise UsageError(
                f"--output: {storage.public_url} is {what}; choose another folder for the scores"
            )
    try:
        created = storage.create(SCORES, spec.to_json())
    except (OSError, ValueError) as error:
        raise cannot_write("--output", storage.public_url, error) from error
    if not created:
        ScoreSpec.read(storage).require_same(spec, storage.public_url)
    return FeatureStore(storage, spec.features)


def open_scores(storage: Storage) -> FeatureStore:
    """Opens a folder of scores like a store whose rows have no features."""
    return FeatureStore(storage, ScoreSpec.read(storage).features)


def keep_moment(storage: Storage, source: FeatureStore) -> None:
    """Notes which commits of a store are scored; later runs may add commits, but not replace rows.

    Args:
      storage: of the scores.
      source: the store, at a moment.

    Raises:
      UsageError: when rows that were scored no longer count, or were merged into other commits.
    """
    assert source.moment is not None
    if storage.exists(MOMENT):
        known = set(json.loads(storage.read(MOMENT))["chunks"])
        markers = source.moment.markers
        fresh = [marker for name, marker in markers.items() if name not in known]
        if known - markers.keys() or any(marker.supersedes for marker in fresh):
            raise UsageError(
                f"--store: {source.url} has replaced rows, or was compacted, since "
                f"{storage.public_url} was begun; score into another --output"
            )
    storage.write(MOMENT, source.moment.to_json())
