"""The ledger of a run, which proves where every image went."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from featurestore.errors import RunFailed


@dataclass(frozen=True, slots=True)
class Ledger:
    """Counts of images; `check` proves that every image is accounted for.

    Attributes:
      images_in: images that the chunks received.
      rows: view-0 rows written.
      quarantined: images that could not be used; a reason is stored for each.
      dead_images: images in chunks that failed as a whole, as far as they could be counted.
      dead_chunks: chunks that failed as a whole.
      duplicates: view-0 rows whose content occurred before; `rows` counts them too.
      ignored: files that are not images (hidden files, other types); not part of the balance.
    """

    images_in: int = 0
    rows: int = 0
    quarantined: int = 0
    dead_images: int = 0
    dead_chunks: int = 0
    duplicates: int = 0
    ignored: int = 0

    def __add__(self, other: Ledger) -> Ledger:
        return Ledger(
            *(
                getattr(self, field.name) + getattr(other, field.name)
                for field in dataclasses.fields(self)
            )
        )

    @staticmethod
    def total(parts: Iterable[Ledger]) -> Ledger:
        """Adds ledgers up."""
        return sum(parts, Ledger())

    def check(self, where: str) -> Ledger:
        """Returns itself if it balances.

        Args:
          where: the owner of the ledger, for the message.

        Raises:
          RunFailed: when images_in is not rows + quarantined + dead_images.
        """
        out = self.rows + self.quarantined + self.dead_images
        if self.images_in != out:
            raise RunFailed(
                f"{where}: the ledger is off: {self.images_in} images in, but {self.rows} rows + "
                f"{self.quarantined} quarantined + {self.dead_images} in dead chunks = {out}; "
                "please report this with the store's runs/ folder"
            )
        return self


def superseded_ledger(kinds: Mapping[str, int]) -> Ledger:
    """Returns the ledger of superseded images, given counts of ``row`` and ``quarantined``."""
    rows, bad = kinds.get("row", 0), kinds.get("quarantined", 0)
    return Ledger(images_in=rows + bad, rows=rows, quarantined=bad)
