"""Draws a grid of labelled images: ``python -m classifier.show``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from classifier import grids, plots
from featurestore import PixelSpec, UsageError, open_store
from featurestore.command import Parser, key_values, main, quiet_libraries, say

if TYPE_CHECKING:
    from classifier.inputs import ImageRef

MOST_TILES = 400
UNLABELLED = "(no label)"
# Whole images, upright, at a size a tile can show.
INPUT_PIXELS = PixelSpec((224, 224), fit="pad", exif="apply", alpha="white")


def parser() -> Parser:
    """Returns the command's arguments."""
    result = Parser(
        prog="python -m classifier.show",
        description="Draws a grid of images with their labels; of a store, as its base saw them.",
    )
    add = result.add_argument
    source = result.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", help="folder, pattern or list of images; any fsspec URL")
    source.add_argument("--store", help="feature store, whose source images are read")
    add("--output", required=True, metavar="FILE.png", help="the picture to write")
    add("--rows", type=int, default=4, help="default %(default)s")
    add("--columns", type=int, default=6, help="default %(default)s")
    add("--per_class", action="store_true", help="one class a row")
    add("--seed", type=int, default=0, help="of the choice of images (default %(default)s)")
    add("--storage_options", nargs="+", default=[], metavar="K=V", help="for the file system")
    return result


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    arguments = parser().parse_args(argv)
    for flag, value in (("--rows", arguments.rows), ("--columns", arguments.columns)):
        if not 1 <= value <= 50:
            raise UsageError(f"{flag} must be from 1 to 50, got {value}")
    if arguments.rows * arguments.columns > MOST_TILES:
        raise UsageError(
            f"--rows times --columns must be {MOST_TILES} at most, got {arguments.rows} x "
            f"{arguments.columns} = {arguments.rows * arguments.columns}"
        )
    # A missing Matplotlib is told before anything is read.
    plots.new_figure(1, 1)
    file_system = key_values(arguments.storage_options, "--storage_options")
    if arguments.store:
        store = open_store(arguments.store, file_system)
        pixels, images, where = store.spec.pixels, store_images(store), store.url
    else:
        pixels, images = INPUT_PIXELS, input_images(arguments.input, file_system)
        where = arguments.input
    shape = (arguments.rows, arguments.columns)
    rng = np.random.default_rng(arguments.seed)
    chosen = choose(images, shape, rng, arguments.per_class)
    if not chosen:
        raise UsageError(f"no image to show in {where!r}")
    rows, tiles = _tiles(chosen, shape, arguments.per_class, pixels, file_system)
    figure = grids.grid_figure(tiles, rows, arguments.columns)
    plots.write_file(arguments.output, plots.png(figure), file_system, "--output")
    gone = sum(label is not None and image is None for image, label in tiles)
    drawn = sum(image is not None for image, _ in tiles)
    say(
        f"{drawn} images drawn into {arguments.output}"
        + (f"; {gone} could not be read and are grey" if gone else "")
    )
    return 0


def store_images(store) -> Iterator[tuple[str, ImageRef]]:
    """Yields (label, reference) of a store's images, views left out."""
    from classifier.inputs import ImageRef

    columns = ("key", "uri", "size", "etag", "labels")
    for batch in store.scan(columns, views=[0], batch_size=8192):
        for key, uri, size, etag, labels in zip(*(batch[name] for name in columns), strict=True):
            label = ", ".join(labels) if len(labels) else UNLABELLED
            yield label, ImageRef(key, uri, int(size), etag, tuple(labels))


def input_images(uri: str, storage_options: Mapping[str, str]) -> Iterator[tuple[str, ImageRef]]:
    """Yields (label, reference) of an input's images."""
    from classifier.inputs import open_input

    for ref in open_input(uri, storage_options):
        yield ", ".join(ref.labels) or UNLABELLED, ref


def choose(
    images: Iterable[tuple[str, ImageRef]],
    shape: tuple[int, int],
    rng: np.random.Generator,
    per_class: bool,
) -> list[tuple[str, ImageRef]]:
    """Draws images at random in one pass, in memory of a grid.

    Vitter's reservoir sampling, "Random Sampling with a Reservoir" (1985), algorithm R; with
    `per_class` one reservoir a class, a row of the grid each.

    Args:
      images: (label, reference) pairs.
      shape: (rows, columns) of the grid.
      rng: decides.
      per_class: whether a row shows one class.

    Returns:
      The chosen pairs, by label where `per_class`, else in the order they came.
    """
    rows, columns = shape
    capacity = columns if per_class else rows * columns
    reservoirs: dict[str, list[tuple[int, str, ImageRef]]] = defaultdict(list)
    seen: dict[str, int] = defaultdict(int)
    for number, (label, ref) in enumerate(images):
        group = label if per_class else ""
        reservoir = reservoirs[group]
        seen[group] += 1
        if len(reservoir) < capacity:
            reservoir.append((number, label, ref))
            continue
        place = int(rng.integers(seen[group]))
        if place < capacity:
            reservoir[place] = (number, label, ref)
    groups = sorted(reservoirs)
    if len(groups) > rows:
        groups = sorted(rng.choice(groups, rows, replace=False).tolist())
    return [
        (label, ref)
        for group in groups
        for _, label, ref in sorted(reservoirs[group], key=lambda item: item[0])
    ]


def _tiles(
    chosen: Sequence[tuple[str, ImageRef]],
    shape: tuple[int, int],
    per_class: bool,
    pixels: PixelSpec,
    storage_options: Mapping[str, str],
) -> tuple[int, list[tuple[np.ndarray | None, str | None]]]:
    """Returns the grid's rows and its tiles; a label of None leaves a place empty."""
    columns = shape[1]
    tiles: list[tuple[np.ndarray | None, str | None]] = []
    for number, (label, ref) in enumerate(chosen):
        if per_class and number and label != chosen[number - 1][0]:
            tiles.extend([(None, None)] * (-len(tiles) % columns))
        tiles.append((_pixels(ref, pixels, storage_options), label))
    return -(-len(tiles) // columns), tiles


def _pixels(
    ref: ImageRef, pixels: PixelSpec, storage_options: Mapping[str, str]
) -> np.ndarray | None:
    from classifier.imagefiles import BadImage
    from classifier.inputs import read_bytes
    from classifier.pixels import read_decoded

    try:
        return read_decoded(lambda: read_bytes(ref, storage_options), pixels).pixels
    except (UsageError, BadImage):
        return None


if __name__ == "__main__":
    main(run)
