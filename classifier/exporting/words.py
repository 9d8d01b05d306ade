"""What a comparison says in a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from classifier.exporting.comparison import Comparison
from classifier.exporting.options import ExportOptions
from classifier.exporting.shipping import Shipped
from featurestore.units import size_text


def shipped_line(shipped: Shipped, options: ExportOptions) -> str:
    """Returns the line on an exported file."""
    return f"{shipped.path}: {options.label}, {size_text(shipped.size)}"


def comparison_lines(found: Comparison) -> Iterator[str]:
    """Yields the agreement, the worst image and the latency."""
    yield (
        f"compared on {found.images:,} images with extraction and head: the most probable class "
        f"agrees on {found.top_1:.2%}, the five most probable ones by {found.top_5:.2%}; the "
        f"largest difference of a probability is {found.largest_difference:.2g}"
    )
    one, many = sorted(found.seconds)
    yield (
        f"latency in a process of its own: {1000 * found.seconds[one]:.1f} ms for 1 image, "
        f"{1000 * found.seconds[many]:.1f} ms for {many}"
    )


def worst_lines(found: Comparison) -> Iterator[str]:
    """Yields the images that differ most, worst first."""
    for difference, name, ours, theirs in sorted(found.worst, reverse=True):
        classes = ours if ours == theirs else f"{ours} in the run, {theirs} in the file"
        yield f"differs by {difference:.2g}: {name} ({classes})"
