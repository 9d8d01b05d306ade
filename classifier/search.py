"""Finds the stored images that are nearest to an image: ``python -m classifier.search``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.figures import grids, plots
from classifier.runs.run import dump_json
from featurestore import FeatureStore, UsageError
from featurestore.cli.command import Parser, key_values, main, quiet_libraries, say
from featurestore.errors import one_line, unknown_choice
from featurestore.fields import TAP
from featurestore.store import open_tap

if TYPE_CHECKING:
    from classifier.auditing.search import Match

COLUMNS = 5


def parser() -> Parser:
    """Returns the command's arguments."""
    result = Parser(
        prog="python -m classifier.search",
        description="Prints the stored images that are nearest to an image, by the cosine of "
        "the standardised features. The store's own base computes the features of the image.",
    )
    add = result.add_argument
    add("image", metavar="IMAGE", help="image file, or its URL")
    add("--store", required=True, help="feature store to search in")
    add("--tap", default="", metavar="NAME", help=TAP)
    add("--top", type=int, default=12, metavar="N", help="images to find (default %(default)s)")
    add("--label", help="only images with this label")
    add("--split", help="only images of this split")
    add(
        "--index",
        metavar="FOLDER",
        help="search an index in this folder instead of all features; it is made by the first "
        "search and whenever the store has changed, may miss a few of the nearest images, and "
        "needs hoarfrost[search]",
    )
    add("--plot", metavar="FILE.png", help="picture to write: the image and those found")
    add("--trust_model", action="store_true", help="allow Lambda layers in the store's base")
    add("--storage_options", nargs="+", default=[], metavar="K=V", help="file system options")
    add("--json", action="store_true", help="print the images as JSON and nothing else")
    return result


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    quiet_libraries()
    arguments = parser().parse_args(argv)
    if arguments.top < 1:
        raise UsageError(f"--top must be at least 1, got {arguments.top}")
    file_system = key_values(arguments.storage_options, "--storage_options")
    store = open_tap(arguments.store, file_system, arguments.tap).at_this_moment()
    if arguments.split is not None:
        store.require_split(arguments.split)
    if arguments.plot:
        plots.new_figure(1, 1)  # Reports a missing Matplotlib before anything is computed.
    pixels = _pixels(arguments.image, store, file_system)

    found = _found(arguments, store, _features(store, pixels, arguments.trust_model))
    if not found:
        raise _nothing(store, arguments)
    if arguments.json:
        record = {"store": store.url, "image": arguments.image}
        say(dump_json({**record, "found": [match.to_record() for match in found]}).rstrip())
    else:
        for match in found:
            say(_line(match))
        say(f"{len(found):,} nearest images of {store.url}")
    if arguments.plot:
        missing = _plot(arguments, store, pixels, found, file_system)
        if missing:
            say(f"note: {missing} images could not be read and are grey", to_stderr=True)
    return 0


def _found(arguments: Namespace, store: FeatureStore, features: np.ndarray) -> list[Match]:
    """Searches all features, or the index that the user named."""
    labels, splits = ([value] if value else None for value in (arguments.label, arguments.split))
    if not arguments.index:
        from classifier.auditing.search import search

        return search(store, features, arguments.top, labels, splits)
    from classifier.auditing.index import StoreIndex

    index = StoreIndex.open(store, arguments.index)
    if index is None:
        say(f"making the index of {store.url} in {arguments.index}", to_stderr=True)
        index = StoreIndex.make(store, arguments.index)
    return index.search(features[None], arguments.top, labels, splits)


def _nothing(store: FeatureStore, arguments: Namespace) -> UsageError:
    if arguments.label is None:
        return UsageError(f"the store at {store.url} has no rows to search in")
    known = {name for batch in store.scan(("labels",)) for row in batch["labels"] for name in row}
    if arguments.label in known:
        return UsageError(
            f"no image of {store.url} has both --label {arguments.label!r} and --split "
            f"{arguments.split!r}; leave one of them out"
        )
    return unknown_choice("--label", arguments.label, known)


def _pixels(image: str, store: FeatureStore, file_system: Mapping[str, Any]) -> np.ndarray:
    """Returns uint8 (H, W, 3), as the store's base sees an image.

    Raises:
      UsageError: when it cannot be read or is no image.
    """
    from classifier.inputs import ImageRef, read_bytes
    from classifier.inputs.refs import explain
    from classifier.pixels.decoder import decode
    from classifier.pixels.filetypes import BadImage

    try:
        return decode(
            read_bytes(ImageRef(image, image, 0, ""), file_system), store.spec.pixels
        ).pixels
    except BadImage as error:
        raise UsageError(f"IMAGE: {image!r} is not a usable image: {one_line(error)}") from error
    except OSError as error:
        raise UsageError(f"IMAGE: cannot read {image!r}: {explain(error)}") from error


def _features(store: FeatureStore, pixels: np.ndarray, trust_model: bool) -> np.ndarray:
    """Returns an image's features, as the store would hold them."""
    from classifier.engines import StoredBase, run_padded, serving_engine
    from classifier.engines.probes import largest_difference

    spec = store.spec
    engine = serving_engine(StoredBase(store.storage, spec, trust_model), 1)
    if engine.numerics.hash != spec.numerics.hash:
        difference = largest_difference(store.storage, spec, engine)
        say(
            "note: this machine computes features differently from the one that extracted them; "
            f"on the store's probe images they differ by {difference:.1e}",
            to_stderr=True,
        )
    features = run_padded(engine, pixels[None])[0]
    return features.astype(np.float16) if spec.dtype == "float16" else features


def _line(match: Match) -> str:
    columns = match.columns
    words = ", ".join(columns["labels"]) or "no label"
    split = f", {columns['split']}" if columns["split"] else ""
    return f"{match.cosine:.4f}  {columns['key']}  ({words}{split})"


def _plot(
    arguments: Namespace,
    store: FeatureStore,
    pixels: np.ndarray,
    found: Sequence[Match],
    file_system: Mapping[str, Any],
) -> int:
    """Draws the image and those found; returns how many could not be read."""
    from classifier.auditing.likeness import decoded_images
    from classifier.inputs.sources import shard_under

    markers = list(store.markers().values())
    records = {
        number: {**match.columns, "shard": shard_under(match.columns["uri"], markers)}
        for number, match in enumerate(found)
    }
    shown = decoded_images(records, lambda _: store.spec.pixels, file_system)
    tiles: list[tuple[np.ndarray | None, str | None]] = [(pixels, "looked for")]
    for number, match in enumerate(found):
        words = ", ".join(match.columns["labels"])
        tiles.append((shown.get(number), f"{match.cosine:.3f} {words}".strip()))
    columns = min(COLUMNS, len(tiles))
    figure = grids.grid_figure(tiles, -(-len(tiles) // columns), columns)
    plots.write_file(arguments.plot, plots.png(figure), file_system, "--plot")
    return len(found) - len(shown)


if __name__ == "__main__":
    main(run)
