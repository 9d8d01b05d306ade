"""Turns a group of images into rows, in a lane: decodes them, and finds stored features."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from classifier.inputs import ImageRef
from classifier.inputs.refs import explain
from classifier.pixels.decoder import Decoded, decode
from classifier.pixels.filetypes import BadImage
from classifier.pixels.views import Views
from featurestore.reuse import StoredFeatures
from featurestore.spec import StoreSpec
from pipelines.extraction.source import Fetched
from pipelines.options import SplitFractions


class Fresh(NamedTuple):
    """A row whose features are still to be computed.

    Attributes:
      row: its number in the group.
      pixels: uint8 (H, W, 3) of the image, not augmented; all its views share them.
      content_hash: of the image.
      view: number of the view.
    """

    row: int
    pixels: np.ndarray
    content_hash: str
    view: int


@dataclass
class GroupResult:
    """What became of one group of images.

    Attributes:
      rows: columns of `schema.META_FIELDS`, one mapping per row: image by image, view by view.
      features: float32 (len(rows), *feature_shape), or uint8 pixels.
      quarantined: columns of `schema.QUARANTINE_SCHEMA`, one mapping per image.
      infer_seconds: time in the base, batch by batch.
      computed: number of rows whose features were computed, and not found by content.
    """

    rows: list[Mapping[str, Any]]
    features: np.ndarray
    quarantined: list[Mapping[str, Any]] = field(default_factory=list)
    infer_seconds: list[float] = field(default_factory=list)
    computed: int = 0

    @property
    def images(self) -> list[Mapping[str, Any]]:
        """The view-0 rows, one per image."""
        return [row for row in self.rows if row["view"] == 0]

    @property
    def every(self) -> list[Mapping[str, Any]]:
        """The images of the group, with the quarantined ones."""
        return [*self.images, *self.quarantined]

    def without_non_finite(self) -> GroupResult:
        """Moves images with NaN or infinity in any view to the quarantine, with all their views."""
        if self.features.dtype.kind != "f":
            return self
        axes = tuple(range(1, self.features.ndim))
        finite = np.isfinite(self.features).all(axis=axes)
        if not finite.all():
            bad = BadImage("non_finite", "the base gave NaN or infinity for this image")
            keys = {row["key"] for row in itertools.compress(self.rows, ~finite)}
            lost = [row for row in self.images if row["key"] in keys]
            self.quarantined.extend(_quarantine_row(row, bad) for row in lost)
            kept = np.array([row["key"] not in keys for row in self.rows], bool)
            self.rows = list(itertools.compress(self.rows, kept))
            self.features = self.features[kept]
        return self


@dataclass(frozen=True)
class GroupDecoder:
    """Decodes groups of images into rows.

    Attributes:
      spec: of the store.
      views: of its images.
      splits: shares of the splits, for inputs without splits.
    """

    spec: StoreSpec
    views: Views
    splits: SplitFractions

    def decode(
        self, group: list[Fetched], stored: StoredFeatures | None
    ) -> tuple[GroupResult, list[Fresh]]:
        """Decodes each image once, and finds the features that are stored already.

        Args:
          group: images with their bytes.
          stored: finds features by content; or None.

        Returns:
          (the rows, those whose features are still to be computed).
        """
        rows: list[Mapping[str, Any]] = []
        quarantined: list[Mapping[str, Any]] = []
        fresh: list[Fresh] = []
        perhaps: dict[int, tuple[str, int]] = {}
        for wanted, data in group:
            ref = wanted.ref
            assert isinstance(ref, ImageRef)
            facts = {"key": ref.key, "uri": ref.uri, "size": ref.size, "etag": ref.etag}
            try:
                if isinstance(data, OSError):
                    raise BadImage("unreadable", explain(data))
                decoded = decode(data, self.spec.pixels)
            except BadImage as bad:
                quarantined.append(_quarantine_row(facts, bad))
                continue
            for row in self._views_of(ref, facts, data, decoded):
                name = row["content_hash"], row["view"]
                fresh.append(Fresh(len(rows), decoded.pixels, *name))
                if wanted.known:
                    perhaps[len(rows)] = name
                rows.append(row)
        features = np.empty((len(rows), *self.spec.feature_shape), self.spec.computed_dtype)
        found = stored.find(list(perhaps.values())) if stored else {}
        numbers = list(perhaps)
        known = {numbers[place]: values for place, values in found.items()}
        for number, values in known.items():
            features[number] = values
        fresh = [one for one in fresh if one.row not in known]
        return GroupResult(rows, features, quarantined), fresh

    def _views_of(
        self, ref: ImageRef, facts: Mapping[str, Any], data: bytes, decoded: Decoded
    ) -> Iterator[Mapping[str, Any]]:
        """Yields the columns of each view of an image, without its features."""
        content_hash = hashlib.sha256(data).hexdigest()
        split = ref.split or self.splits.choose(self.spec.seed, content_hash)
        for view in range(self.views.count_of(split)):
            yield {
                **facts,
                "content_hash": content_hash,
                "labels": list(ref.labels),
                "split": split,
                "view": view,
                "width": decoded.width,
                "height": decoded.height,
            }


def _quarantine_row(facts: Mapping[str, Any], bad: BadImage) -> Mapping[str, Any]:
    named = {name: facts[name] for name in ("key", "uri", "size", "etag")}
    return {**named, "kind": bad.kind, "message": bad.message}
