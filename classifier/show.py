"""Draws a grid of labelled images, or of their views: ``python -m classifier.show``."""

from __future__ import annotations

import hashlib
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from classifier.figures import grids, plots
from classifier.inputs.reservoir import Reservoir
from classifier.pixels.views import BOOK, Views
from classifier.recipes.arguments import HELP, METAVAR, with_recipe
from featurestore import PixelSpec, UsageError, open_store
from featurestore.cli.command import Parser, key_values, main, quiet_libraries, say

if TYPE_CHECKING:
    from classifier.inputs import ImageRef
    from featurestore import FeatureStore

KEPT = "no picture was written; give the same command again"
MOST_TILES = 400
COLUMNS = 6
UNLABELLED = "(no label)"
Tile = tuple[np.ndarray | None, str | None]
# Whole, upright images at the size of a tile.
INPUT_PIXELS = PixelSpec((224, 224), fit="pad", exif="apply", alpha="white")
# Views are made of the pixels that an extraction uses by default.
VIEWED_PIXELS = PixelSpec((224, 224))


def parser() -> Parser:
    """Returns the command's arguments."""
    result = Parser(
        prog="python -m classifier.show",
        description="Draws a grid of images with their labels; images of a store as its base saw "
        "them. With --views or --augment each row is an image and its augmented views; with "
        "--views 9 --columns 3 each image has three rows.",
    )
    add = result.add_argument
    source = result.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", help="folder, pattern or list of images; any fsspec URL")
    source.add_argument("--store", help="feature store; its source images are read")
    add("--output", required=True, metavar="FILE.png", help="the picture to write")
    add("--rows", type=int, default=4, help="rows of the grid (default %(default)s)")
    add("--columns", type=int, help=f"columns of the grid (default {COLUMNS}, or the views)")
    add("--per_class", action="store_true", help="one class per row")
    add("--augment", default="", metavar="NAME[=FACTOR],...", help=f"default: the store's, {BOOK}")
    text = "views per image (default: the store's, or --columns)"
    add("--views", type=int, default=0, metavar="K", help=text)
    text = "seed of the choice of images and of an --input's views (default %(default)s)"
    add("--seed", type=int, default=0, help=text)
    add("--labels", default="", metavar="FILE", help="table of keys and labels for an --input")
    add("--key_column", default="", metavar="NAME", help="of --labels; default the first")
    text = "of --labels, or of an --input that is a list"
    add("--label_column", default="", metavar="NAME", help=text)
    add("--image_column", default="", metavar="NAME", help="of an --input that is a list")
    add("--recipe", metavar=METAVAR, help=HELP)
    add("--storage_options", nargs="+", default=[], metavar="K=V", help="file system options")
    return result


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    with with_recipe("show", parser(), argv) as typed:
        arguments = parser().parse_args(typed)
    # Reports a missing Matplotlib before anything is read.
    plots.new_figure(1, 1)
    file_system = key_values(arguments.storage_options, "--storage_options")
    source = _source(arguments, file_system)
    views = source.views.count
    columns = arguments.columns
    if columns is None:
        columns = views if views > 1 else COLUMNS
    _check_grid(
        arguments.rows,
        columns,
        "--views" if arguments.columns is None and views > 1 else "--columns",
    )
    places = (
        (_images(arguments.rows, columns, views), 1) if views > 1 else (arguments.rows, columns)
    )
    rng = np.random.default_rng(arguments.seed)
    chosen = choose(source.images, places, rng, arguments.per_class)
    if not chosen:
        raise UsageError(f"no image to show in {source.where!r}")
    shown = [tile for label, ref in chosen for tile in _tiles_of(label, ref, source, file_system)]
    tiles = shown
    if views > 1:
        tiles = list(_padded(shown, views, columns))
    elif arguments.per_class:
        tiles = _in_rows(shown, columns)
    figure = grids.grid_figure(tiles, -(-len(tiles) // columns), columns)
    plots.write_file(arguments.output, plots.png(figure), file_system, "--output")
    gone = sum(label is not None and image is None for image, label in tiles)
    drawn = sum(image is not None for image, _ in tiles)
    say(
        f"{drawn} images drawn into {arguments.output}"
        + (f"; {gone} could not be read and are grey" if gone else "")
    )
    return 0


def _check_grid(rows: int, columns: int, flag: str) -> None:
    for name, value in (("--rows", rows), (flag, columns)):
        if not 1 <= value <= 50:
            raise UsageError(f"{name} must be from 1 to 50, got {value}")
    if rows * columns > MOST_TILES:
        raise UsageError(
            f"--rows times {flag} must be {MOST_TILES} at most, got {rows} x {columns} = "
            f"{rows * columns}"
        )


def _images(rows: int, columns: int, views: int) -> int:
    """Returns how many images fit, each with its views from the start of a row."""
    each = -(-views // columns)
    if rows < each:
        raise UsageError(
            f"--rows must be at least {each} for an image of {views} views in {columns} columns, "
            f"got {rows}"
        )
    return rows // each


def _padded(tiles: Sequence[Tile], views: int, columns: int) -> Iterator[Tile]:
    for start in range(0, len(tiles), views):
        yield from tiles[start : start + views]
        yield from [(None, None)] * (-views % columns)


class _Source(NamedTuple):
    """The source of images: (label, reference) pairs, their pixels and views, the address."""

    images: Iterator[tuple[str, ImageRef]]
    pixels: PixelSpec
    views: Views
    where: str


def _source(arguments: Namespace, file_system: Mapping[str, str]) -> _Source:
    if arguments.store:
        if arguments.labels:
            raise UsageError(
                "--labels is for an --input; a store has labels, which python -m featurestore "
                "relabel changes"
            )
        store = open_store(arguments.store, file_system)
        images, pixels, where = store_images(store), store.spec.pixels, store.url
        known = Views.of(store.spec)
    else:
        wanted = arguments.augment or arguments.views
        pixels, where = VIEWED_PIXELS if wanted else INPUT_PIXELS, arguments.input
        images = labelled_images(arguments, file_system)
        known = Views(seed=arguments.seed)
    return _Source(images, pixels, _views(arguments, known, pixels), where)


def _views(arguments: Namespace, known: Views, pixels: PixelSpec) -> Views:
    """Reads the flags; the store, or the defaults of an extraction, supply missing values."""
    if not (arguments.augment or arguments.views):
        return Views()
    wanted = arguments.columns or COLUMNS
    count = arguments.views or (known.count if known.count > 1 else wanted)
    if count < 2:
        raise UsageError(
            f"--views must be 2 or more, got {count}: the first one is the image itself"
        )
    augment = arguments.augment or known.augment or BOOK
    return Views.parse(augment, count, known.seed, pixels.image_size)


def store_images(store: FeatureStore) -> Iterator[tuple[str, ImageRef]]:
    """Yields (label, reference) of a store's images, without their augmented views."""
    from classifier.inputs import ImageRef

    columns = ("key", "uri", "size", "etag", "labels")
    for batch in store.scan(columns, views=[0], batch_size=8192):
        for key, uri, size, etag, labels in zip(*(batch[name] for name in columns), strict=True):
            label = ", ".join(labels) if len(labels) else UNLABELLED
            yield label, ImageRef(key, uri, int(size), etag, tuple(labels))


def labelled_images(
    arguments: Namespace, storage_options: Mapping[str, str]
) -> Iterator[tuple[str, ImageRef]]:
    """Yields (label, reference) of an input's images, with the labels of a table if given."""
    from classifier.inputs import Asked, open_input
    from classifier.inputs.labels import LabelOptions

    of_list = "" if arguments.labels else arguments.label_column
    column = arguments.label_column if arguments.labels else ""
    options = LabelOptions(arguments.labels, arguments.key_column, column)
    labeller = options.labeller(storage_options)
    for ref in open_input(arguments.input, storage_options, Asked(arguments.image_column, of_list)):
        yield ", ".join(labeller.apply(ref).labels) or UNLABELLED, ref


def choose(
    images: Iterable[tuple[str, ImageRef]],
    shape: tuple[int, int],
    rng: np.random.Generator,
    per_class: bool,
) -> list[tuple[str, ImageRef]]:
    """Draws images at random in one pass, with memory for one grid.

    With `per_class` each class has its own sample, which fills one row of the grid.

    Args:
      images: (label, reference) pairs.
      shape: (rows, columns) of the grid.
      rng: source of the draw.
      per_class: whether a row shows one class.

    Returns:
      The chosen pairs, by label if `per_class`, and then in their original order.
    """
    rows, columns = shape
    capacity = columns if per_class else rows * columns
    reservoirs: dict[str, Reservoir[tuple[int, str, ImageRef]]] = defaultdict(
        lambda: Reservoir(capacity, lambda stop: int(rng.integers(stop)))
    )
    for number, (label, ref) in enumerate(images):
        reservoirs[label if per_class else ""].offer((number, label, ref))
    groups = sorted(reservoirs)
    if len(groups) > rows:
        groups = sorted(rng.choice(groups, rows, replace=False).tolist())
    return [
        (label, ref)
        for group in groups
        for _, label, ref in sorted(reservoirs[group].items, key=lambda item: item[0])
    ]


def _tiles_of(
    label: str, ref: ImageRef, source: _Source, storage_options: Mapping[str, str]
) -> list[Tile]:
    """Returns one tile per view of an image; without pixels if it cannot be read."""
    from classifier.inputs import read_bytes
    from classifier.pixels.decoder import decode
    from classifier.pixels.filetypes import BadImage

    views = source.views
    labels = [label, *(f"view {view}" for view in range(1, views.count))]
    try:
        data = read_bytes(ref, storage_options)
        pixels = decode(data, source.pixels).pixels
    except (UsageError, OSError, BadImage):
        return [(None, label) for label in labels]
    content_hash = hashlib.sha256(data).hexdigest()
    return [(views.make(pixels, content_hash, view), label) for view, label in enumerate(labels)]


def _in_rows(tiles: Sequence[Tile], columns: int) -> list[Tile]:
    """Begins a row at each new label; tiles with a label of None fill the previous row."""
    result: list[Tile] = []
    for number, (pixels, label) in enumerate(tiles):
        if number and label != tiles[number - 1][1]:
            result.extend([(None, None)] * (-len(result) % columns))
        result.append((pixels, label))
    return result


if __name__ == "__main__":
    main(run, kept=KEPT)
