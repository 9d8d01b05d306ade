"""Arrays of an HDF5 file for a network whose layers have other names: by shapes, in order.

The file's arrays are taken in the order of their paths, with numbers in them compared as numbers,
so that ``conv2d_2`` stands before ``conv2d_10``. The network's shapes must occur among them in
their own order, and in one way only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from featurestore.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

Shape = tuple[int, ...]
_DIGITS = re.compile(r"(\d+)")
# What an optimizer keeps beside the weights, in the shapes of the weights.
_NO_WEIGHTS = ("optimizer", "optimizer_weights")


def arrays_by_shape(path: Path, shapes: Sequence[Shape], label: str) -> list[np.ndarray] | None:
    """Returns the arrays of a file that have the given shapes, in order; None if there are none.

    Args:
      path: of an HDF5 file.
      shapes: of a network's weights, in its order.
      label: the file as the user named it.

    Raises:
      UsageError: when the shapes fit in several ways.
      OSError: when it is no HDF5 file.
    """
    import h5py
    import numpy as np

    found: dict[str, Shape] = {}

    def note(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and name.split("/")[0] not in _NO_WEIGHTS:
            found[name] = tuple(item.shape)

    with h5py.File(path, "r") as file:
        file.visititems(note)
        names = sorted(found, key=_in_order)
        places = places_of(shapes, [found[name] for name in names])
        if places is None:
            return None
        if not places:
            raise UsageError(
                f"--weights: the {len(shapes)} weights of this base fit the {len(names)} arrays of "
                f"{label!r} in several ways, and its names are not those of the base; give a file "
                "that was saved from this base alone"
            )
        return [np.asarray(file[names[place]]) for place in places]


def places_of(wanted: Sequence[Shape], held: Sequence[Shape]) -> list[int] | None:
    """Returns where shapes stand among others; None if they do not, [] if in several ways.

    Example:
      >>> places_of([(2,), (3,)], [(2,), (9,), (3,)])
      [0, 2]
      >>> places_of([(2,)], [(2,), (2,)]), places_of([(2,), (3,)], [(3,), (2,)])
      ([], None)
    """
    first = _leftmost(wanted, held)
    if first is None:
        return None
    last = _leftmost(wanted[::-1], held[::-1]) or []
    mirrored = [len(held) - 1 - place for place in reversed(last)]
    return first if first == mirrored else []


def _leftmost(wanted: Sequence[Shape], held: Sequence[Shape]) -> list[int] | None:
    places: list[int] = []
    start = 0
    for shape in wanted:
        try:
            start = held.index(shape, start) + 1
        except ValueError:
            return None
        places.append(start - 1)
    return places


def _in_order(name: str) -> tuple[tuple[str | int, ...], ...]:
    """Returns a key to sort paths by: texts and numbers alternate in each of its folders."""
    return tuple(
        tuple(
            int(part) if number % 2 else part for number, part in enumerate(_DIGITS.split(folder))
        )
        for folder in name.split("/")
    )
