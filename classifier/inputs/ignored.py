"""Files of an input that are no images: counted and named."""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_IGNORED_LISTED = 1000


@dataclass
class Ignored:
    """Files that are no images by name nor by content: counted, the first thousand named."""

    count: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Counts one file."""
        self.count += 1
        if len(self.names) < MAX_IGNORED_LISTED:
            self.names.append(name)
