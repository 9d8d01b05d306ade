"""The store whose rows take the place of images: what is asked of it, and what is new in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from classifier.engines.options import AUTO, EngineOptions
from classifier.engines.probes import read_probes
from classifier.engines.reextraction import draw_rows, find_rows
from classifier.inputs import ImageRef, ShardRef
from featurestore.commit import Marker, read_markers
from featurestore.errors import UsageError
from featurestore.spec import PixelSpec, StoreSpec
from featurestore.store import FeatureStore
from pipelines.extraction.commits import commit_ref
from pipelines.options import ExtractOptions, ViewOptions
from pipelines.planning.chunks import Wanted


def options_like(options: ExtractOptions, source: FeatureStore) -> ExtractOptions:
    """Completes the options by what the source decides: pixels, views and their seed.

    Raises:
      UsageError: for a flag that contradicts the source, or that only images can follow.
    """
    spec = source.spec
    if options.base.taps and not spec.is_pixels:
        raise UsageError(
            f"--layer: from stored maps one layer is derived at a time, got "
            f"{len(options.base.taps)}; derive each into a store of its own"
        )
    if options.base.is_pixels and not spec.is_pixels:
        raise UsageError(
            f"--input_store: {source.url} holds maps, from which no pixels can be made; give a "
            "store of pixels, or --input"
        )
    if options.base.image_size not in (None, spec.pixels.image_size):
        asked, own = (_sides(size) for size in (options.base.image_size, spec.pixels.image_size))
        raise _contradiction("image_size", asked, own)
    plain = PixelSpec((1, 1))
    pixels = {one.name: getattr(spec.pixels, one.name) for one in fields(PixelSpec)}
    del pixels["image_size"]
    for name, value in options.pixel_fields.items():
        # Fit and resize are there only if you or the base's file gave them.
        is_open = name not in ("fit", "resize") and value == getattr(plain, name)
        if value != pixels[name] and not is_open:
            raise _contradiction(name, value, pixels[name])
    views = ViewOptions(spec.views, spec.augment)
    if options.views not in (ViewOptions(), views):
        raise _contradiction("views", options.views.views, spec.views)
    if options.base.is_pixels and (1, 3) == (spec.feature_shape[-1], options.base.channels):
        raise UsageError(
            "--channels 3: --input_store holds grey pixels, which have no colours; give "
            "--channels 1, or another store"
        )
    return replace(
        options,
        inputs=(source.url,),
        base=replace(options.base, image_size=spec.pixels.image_size),
        pixels=pixels,
        views=views,
        seed=spec.seed,
        engine=options.engine if spec.is_pixels else _tail_engine(options.engine),
    )


def _sides(size: tuple[int, int] | None) -> str:
    return "x".join(map(str, size or ()))


def _contradiction(flag: str, asked: Any, own: Any) -> UsageError:
    return UsageError(
        f"--{flag} {asked}: the rows of --input_store were made with {own}, and no image is read "
        "again; leave the flag out"
    )


def _tail_engine(asked: EngineOptions) -> EngineOptions:
    """Returns how a store of maps is continued: in TensorFlow, in float32 if you leave it open."""
    for flag, given in (("engine", asked.engine), ("precision", asked.precision)):
        if given in ("openvino", "onnxruntime", "int8"):
            raise UsageError(
                f"--{flag} {given}: a base goes on from stored maps in TensorFlow, which has no "
                "int8; leave the flag out"
            )
    precision = "float32" if asked.precision == AUTO else asked.precision
    reason = "it goes on from stored maps"
    return EngineOptions("tensorflow", precision, remeasure=asked.remeasure, reason=reason)


def require_colours(source: StoreSpec, channels: int) -> None:
    """Refuses to run a base for colours on grey pixels, which are another image.

    Raises:
      UsageError: naming the fix.
    """
    if source.is_pixels and source.feature_shape[-1] == 1 and channels != 1:
        raise UsageError(
            "--input_store: it holds grey pixels, and this base takes colours; give a store of "
            "--channels 3, or --input"
        )


@dataclass(frozen=True)
class StoreSamples:
    """Draws images from a store: stored pixels, or of maps the images of the store's probes.

    Attributes:
      source: the store.
    """

    source: FeatureStore

    def spread(self, count: int, pixels: PixelSpec) -> np.ndarray:
        """Returns images drawn at random, uint8 (n, H, W, 3)."""
        if not self.source.spec.is_pixels:
            return self.first(count, pixels)
        drawn = find_rows(self.source, draw_rows(self.source, count, seed=0))
        rows = [as_rgb(row.features[None])[0] for row in drawn]
        return np.stack(rows) if rows else np.empty((0, *pixels.image_size, 3), np.uint8)

    def first(self, count: int, pixels: PixelSpec) -> np.ndarray:
        """Returns the images of the probes, uint8 (n, H, W, 3)."""
        return read_probes(self.source.storage, self.source.spec)[0][:count]


def as_rgb(pixels: np.ndarray) -> np.ndarray:
    """Returns stored pixels, uint8 (n, H, W, 1 or 3), as an engine takes them: with 3 channels.

    Equal channels become the same grey again, exactly.
    """
    return pixels if pixels.shape[-1] == 3 else np.repeat(pixels, 3, axis=-1)


class Derived:
    """What a store has derived from the commits of another one.

    A compaction of the source makes one commit of several; what was derived from these need not be
    derived again.

    Args:
      store: the derived one.
      source: the other.
    """

    def __init__(self, store: FeatureStore, source: FeatureStore) -> None:
        every = read_markers(store.storage, replaced=True).values()
        self._chunk_of = {marker.origin: marker.chunk_id for marker in every if marker.origin}
        self._source = source
        self._every: Mapping[str, Marker] = read_markers(source.storage, replaced=True)

    def has(self, chunk_id: str) -> bool:
        """Returns whether a commit of the source, or all that it merges, is derived."""
        merged = self._every[chunk_id].replaces if chunk_id in self._every else ()
        return chunk_id in self._chunk_of or (bool(merged) and all(map(self.has, merged)))

    def replaced_by(self, chunk_id: str) -> Iterator[str]:
        """Yields the derived chunks of the commits that a commit of the source merges."""
        merged = self._every[chunk_id].replaces if chunk_id in self._every else ()
        for name in merged:
            if name in self._chunk_of:
                yield self._chunk_of[name]
            else:
                yield from self.replaced_by(name)

    def refs(self) -> Iterator[ShardRef]:
        """Yields every commit of the source."""
        return (commit_ref(self._source, marker) for marker in self._source.markers().values())

    def sift(self, refs: Iterable[ImageRef | ShardRef]) -> Iterator[tuple[bool, Wanted | None]]:
        """Yields (True, what is to be derived, or None for what is done) of each commit."""
        for ref in refs:
            yield True, None if self.has(ref.etag) else Wanted(ref)
