"""Decides which rows count. Parts are never edited; instead, a later commit supersedes keys.

When an image has changed, is retried or is pruned, the marker of a newer run names its key. Rows
and quarantined images of older runs under that key then no longer count. Run ids sort by time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from featurestore.commit import Marker


@dataclass(frozen=True)
class Visibility:
    """The keys that newer runs superseded.

    Attributes:
      superseded: key -> the newest run that superseded it.
    """

    superseded: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def newest(self) -> str:
        """The newest run that superseded a key, or ""."""
        return max(self.superseded.values(), default="")

    @classmethod
    def of(cls, markers: Iterable[Marker]) -> Visibility:
        """Collects the superseded keys from all commits of a store."""
        superseded: dict[str, str] = {}
        for marker in markers:
            for key in marker.supersedes:
                superseded[key] = max(superseded.get(key, ""), marker.run_id)
        return cls(superseded)

    def concerns(self, marker: Marker) -> bool:
        """Whether a row of the commit may be hidden, so that readers must check its keys."""
        return self.newest > marker.run_id

    def shows(self, keys: Iterable[str], run_id: str) -> np.ndarray:
        """Returns bool (n,): which keys of a run's commit still count."""
        return np.array([self.superseded.get(key, "") <= run_id for key in keys], bool)
