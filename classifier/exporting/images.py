"""The images that an exported file is compared on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from operator import itemgetter
from typing import Any

import numpy as np

from classifier.engines.probes import read_probes
from classifier.engines.reextraction import Report, draw_rows, find_rows, readable
from classifier.inputs import (
    SHARD_ERRORS,
    Ignored,
    InputOptions,
    ShardRef,
    iter_shard,
    list_inputs,
    read_bytes,
)
from classifier.inputs.reservoir import Reservoir
from classifier.inputs.sources import read_sources
from classifier.pixels.decoder import decode
from classifier.pixels.filetypes import BadImage
from classifier.runs.run import Run
from featurestore import open_store
from featurestore.errors import HoarfrostError, one_line
from featurestore.spec import PixelSpec

Named = tuple[str, np.ndarray]


def probe_images(run: Run) -> Iterator[Named]:
    """Yields (name, uint8 (H, W, 3)) of the probe images that the run holds."""
    pixels, _ = read_probes(run.storage, run.spec)
    for number, image in enumerate(pixels):
        yield f"probe image {number}", image


def store_images(run: Run, count: int, tell: Callable[[str], None]) -> list[Named]:
    """Reads images of the run's store again, drawn at random.

    Args:
      run: names its store.
      count: the largest number of images.
      tell: takes a line for the user when the store or its images cannot be reached.

    Returns:
      (key, uint8 (H, W, 3)) pairs.
    """
    if not count:
        return []
    options, report = run.storage.options, Report()
    if not run.config.store_url:
        tell("note: an adopted classifier has no store; --input gives images to check the file on")
        return []
    try:
        store = open_store(run.config.store_url, options).tap_of(run.spec.base).at_this_moment()
        sources = read_sources(find_rows(store, draw_rows(store, count, 0)), options)
        found = [(row.name, pixels) for row, pixels in readable(run.spec, sources, report)]
    except HoarfrostError as error:
        tell(f"note: no images of the store were read: {one_line(error)}")
        return []
    if report.findings:
        first = report.findings[0]["message"]
        tell(f"note: {len(report.findings)} images of the store cannot be read again: {first}")
    return found


def drawn_images(
    uri: str,
    count: int,
    pixels: PixelSpec,
    options: Mapping[str, Any],
    tell: Callable[[str], None],
) -> list[Named]:
    """Decodes images of an input that are drawn at random; other arguments as `input_images`.

    Args:
      count: the largest number of images.

    Returns:
      (key, uint8 (H, W, 3)) pairs, the same every time, in the order of the input.
    """
    drawn: Reservoir[tuple[int, Named]] = Reservoir(count, random.Random(0).randrange)
    for item in enumerate(input_images(uri, pixels, options, tell)):
        drawn.offer(item)
    return [image for _, image in sorted(drawn.items, key=itemgetter(0))]


def input_images(
    uri: str, pixels: PixelSpec, options: Mapping[str, Any], tell: Callable[[str], None]
) -> Iterator[Named]:
    """Decodes the images of an input, one after the other; reports those that cannot be used.

    Args:
      uri: a folder, pattern, image, list or shard.
      pixels: how images are decoded.
      options: for the file system.
      tell: takes lines for the user.

    Yields:
      (key, uint8 (H, W, 3)) pairs.
    """
    for key, data in _contents(uri, options, tell):
        try:
            if isinstance(data, OSError):
                raise BadImage("unreadable", one_line(data))
            yield key, decode(data, pixels).pixels
        except BadImage as error:
            tell(f"{key}: bad image: {one_line(error)}")


def _contents(
    uri: str, options: Mapping[str, Any], tell: Callable[[str], None]
) -> Iterator[tuple[str, bytes | OSError]]:
    for ref in list_inputs([uri], InputOptions(storage_options=options)):
        try:
            if not isinstance(ref, ShardRef):
                yield ref.key, read_bytes(ref, options)
                continue
            # Labels are not needed, so its folders need not be understood.
            flat = replace(ref, layout="flat")
            yield from ((member.key, data) for member, data in iter_shard(flat, options, Ignored()))
        except SHARD_ERRORS as error:
            tell(f"{ref.key}: {one_line(error)}")
