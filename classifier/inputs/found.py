"""Collects what a listing has to say besides references: ignored files, layouts and counts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from classifier.inputs.layouts import Layout
from featurestore.ignored import Ignored
from featurestore.labels.tables import TEXT_SUFFIXES

# With a folder per image there would be millions of classes.
MAX_CLASSES = 100_000
_SHOWN = 5


@dataclass
class Found:
    """Ignored files, layouts, and the number of images in each class and split.

    Attributes:
      ignored: the files that are not images.
      say: gets a line for each list, and for the first shard of each format with columns, that
        names the columns which are read; None where nobody listens.
      layouts: input -> what its folders mean.
      images: the number of all images.
      unlabelled: the number of images without a class.
      classes: the number of images of each class.
      splits: the number of images of each split.
      beside: the number of images in each folder beside the splits, or beside the folder that wraps
        the classes.
      suspects: the number of images in each folder that is named like a split or a part, but is a
        class or lies in one.
    """

    ignored: Ignored = field(default_factory=Ignored)
    say: Callable[[str], None] | None = None
    layouts: dict[str, Layout] = field(default_factory=dict)
    images: int = 0
    unlabelled: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    beside: Counter[str] = field(default_factory=Counter)
    suspects: Counter[str] = field(default_factory=Counter)

    def count(self, labels: Iterable[str], split: str | None) -> None:
        """Counts one image by its labels and split."""
        self.images += 1
        self.splits.update([split] if split else [])
        labels = tuple(labels)
        self.unlabelled += not labels
        for label in labels:
            _add(self.classes, label)

    def place(self, root: str, layout: Layout, path: str) -> None:
        """Notes where an image lies.

        Args:
          root: the image's input, as messages show it.
          layout: what the root's folders mean.
          path: the image's path below the root.
        """
        self.layouts.setdefault(root, layout)
        if beside := layout.beside(path):
            _add(self.beside, beside)
        elif suspect := layout.suspect(path):
            _add(self.suspects, suspect)

    def lines(self) -> list[str]:
        """Returns lines for the user; a doubtful layout comes with the flag that settles it."""
        lines = [f"layout of {root!r}: {layout}" for root, layout in self.layouts.items()]
        if self.images:
            number = len(self.classes)
            more = "more than " if number == MAX_CLASSES else ""
            text = f"{more}{number:,} class" + ("es" if number != 1 else "")
            text += f" ({_shown(self.classes)})" if self.classes else ""
            text += f", splits {_shown(self.splits)}" if self.splits else ", no splits"
            if self.unlabelled:
                text += f"; {self.unlabelled:,} of {self.images:,} images have no label"
            lines.append(f"found: {text}")
            if self.unlabelled == self.images and (beside := self._table()):
                lines.append(
                    f"note: no image has a label; {beside!r} lies beside them: if it holds the "
                    "labels, name it with --labels"
                )
        if alike := _alike(self.classes):
            lines.append(
                f"note: classes whose names differ only in case or separators: {alike}; if they "
                "are one class, give it one name"
            )
        if self.beside:
            lines.append(
                f"note: images beside the other folders got no label and no split: "
                f"{_shown(self.beside)}; move them away, or say with --layout class or --layout "
                "split what the folders mean"
            )
        if self.suspects:
            lines.append(
                f"note: {_shown(self.suspects)}: named like splits or parts of a set, and taken "
                "for classes or parts of classes; if they are splits, say so with --layout split; "
                "if the folders in them are the classes, give each as an --input of its own"
            )
        return lines

    def _table(self) -> str:
        """Returns the first ignored file that may be a table of labels, or ""."""
        ends = tuple(TEXT_SUFFIXES)
        return next((name for name in self.ignored.names if name.lower().endswith(ends)), "")


def _add(counts: Counter[str], name: str) -> None:
    if name in counts or len(counts) < MAX_CLASSES:
        counts[name] += 1


def _alike(names: Iterable[str]) -> str:
    """Returns the first few names of classes that are spelt alike, or ""."""
    spelt: dict[str, list[str]] = {}
    for name in names:
        spelt.setdefault(re.sub(r"[ _-]+", " ", name.casefold()), []).append(name)
    groups = [", ".join(sorted(group)) for group in spelt.values() if len(group) > 1]
    return "; ".join(sorted(groups)[:_SHOWN])


def _shown(counts: Mapping[str, int]) -> str:
    shown = ", ".join(f"{name} {counts[name]:,}" for name in sorted(counts)[:_SHOWN])
    return shown + (", ..." if len(counts) > _SHOWN else "")
