"""Which rows a store holds, told by the parts that extractions wrote; compactions do not count."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from featurestore.commit import Marker, read_markers
from featurestore.io.storage import Storage


def original_parts(storage: Storage, markers: Iterable[Marker]) -> list[str]:
    """Returns the checksums of the parts of commits, before compactions merged any, sorted.

    Args:
      storage: of the store.
      markers: commits that count; for one without rows the checksum is "".
    """
    markers = list(markers)
    # Manifests keep the markers of replaced commits whose files are gone.
    merged = any(marker.replaces for marker in markers)
    every = read_markers(storage, replaced=True) if merged else {}
    return sorted(part for marker in markers for part in _parts(marker, every))


def _parts(marker: Marker, every: Mapping[str, Marker]) -> Iterator[str]:
    if not marker.replaces:
        yield marker.part_sha256
    for name in marker.replaces:
        if name in every:
            yield from _parts(every[name], every)
        else:
            yield name
