"""What the folders of a run's inputs were taken for, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from classifier.inputs.layouts import Layout

# A folder for each image would make millions of classes; so many names are kept.
MAX_CLASSES = 100_000
_SHOWN = 5


@dataclass
class Found:
    """Layouts, and images by class and by split.

    Attributes:
      layouts: input -> what its folders mean.
      images: all of them.
      unlabelled: those without a class.
      classes: images of each class.
      splits: images of each split.
      beside: images of each folder beside the splits, or beside what wraps the classes.
      suspects: folders that are named like splits, and are classes or lie in classes.
    """

    layouts: dict[str, Layout] = field(default_factory=dict)
    images: int = 0
    unlabelled: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    beside: Counter[str] = field(default_factory=Counter)
    suspects: Counter[str] = field(default_factory=Counter)

    def count(self, labels: Iterable[str], split: str | None) -> None:
        """Counts one image."""
        self.images += 1
        self.splits.update([split] if split else [])
        labels = tuple(labels)
        self.unlabelled += not labels
        for label in labels:
            _add(self.classes, label)

    def place(self, root: str, layout: Layout, path: str) -> None:
        """Notes where an image lies.

        Args:
          root: of it, for messages.
          layout: of the root.
          path: of the image, relative to it.
        """
        self.layouts.setdefault(root, layout)
        if beside := layout.beside(path):
            _add(self.beside, beside)
        elif suspect := layout.suspect(path):
            _add(self.suspects, suspect)

    def lines(self) -> list[str]:
        """Says it in a few lines, the doubtful with what to do about it."""
        lines = [f"layout of {root!r}: {layout}" for root, layout in self.layouts.items()]
        if self.images:
            number = len(self.classes)
            most = "more than " if number == MAX_CLASSES else ""
            text = f"{most}{number:,} class" + ("es" if number != 1 else "")
            text += f" ({_shown(self.classes)})" if self.classes else ""
            text += f", splits {_shown(self.splits)}" if self.splits else ", no splits"
            if self.unlabelled:
                text += f"; {self.unlabelled:,} of {self.images:,} images have no label"
            lines.append(f"found: {text}")
        if self.beside:
            lines.append(
                f"note: images beside the other folders got no label and no split: "
                f"{_shown(self.beside)}; move them away, or say with --layout class or --layout "
                "split what the folders mean"
            )
        if self.suspects:
            lines.append(
                f"note: {_shown(self.suspects)}: named like splits, and taken for classes or parts "
                "of classes; if they are splits, say so with --layout split, or give their folder "
                "as --input"
            )
        return lines


def _add(counts: Counter[str], name: str) -> None:
    if name in counts or len(counts) < MAX_CLASSES:
        counts[name] += 1


def _shown(counts: Mapping[str, int]) -> str:
    shown = ", ".join(f"{name} {counts[name]:,}" for name in sorted(counts)[:_SHOWN])
    return shown + (", ..." if len(counts) > _SHOWN else "")
