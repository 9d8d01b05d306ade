"""Names that are counted, the first thousand of them kept: files that are no images, and such."""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_IGNORED_LISTED = 1000


@dataclass
class Ignored:
    """Counted names, such as files that are images neither by name nor by content."""

    count: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Counts one."""
        self.count += 1
        if len(self.names) < MAX_IGNORED_LISTED:
            self.names.append(name)
