"""Deletes files that no commit needs: those of attempts that failed, and of replaced commits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from featurestore import layout
from featurestore.commit import Marker, committed, marker_files, marker_names
from featurestore.io.storage import Storage
from featurestore.layout import HashedName

# A file of this age without a marker belongs to a crashed run: publishing takes milliseconds.
ORPHAN_AGE_SECONDS = 24 * 3600.0


def sweep_store(storage: Storage, markers: Iterable[Marker], now: float) -> list[str]:
    """Deletes orphans of committed chunks, and other orphans that are older than a day.

    A listing alone is never reason enough to delete a file: each orphan's own marker is read, and a
    store without a single marker has lost its markers, so that its files stay. The files of
    replaced commits, whose markers name them, stay for their readers.

    Args:
      storage: of the store.
      markers: all commits that count, or those of a moment ago.
      now: seconds since the epoch.

    Returns:
      The deleted paths.
    """
    markers = list(markers)
    if not markers:
        return []
    # Files before their markers: a chunk that is committed in between then counts as committed.
    places = [(folder, storage.names(folder)) for folder in layout.DATA_FOLDERS]
    unnamed = {f"{folder}/{name}" for folder, names in places for name in names}
    for each in markers:
        unnamed -= each.files
    chunk_of = {path: HashedName.parse(path.rpartition("/")[2]) for path in sorted(unnamed)}
    named = _files_of(storage, {name.chunk_id for name in chunk_of.values() if name})
    removed = []
    for path, name in chunk_of.items():
        files = named.get(name.chunk_id) if name else None
        if files is None:
            file = storage.entry(path)
            if not file or not file.modified or now - file.modified <= ORPHAN_AGE_SECONDS:
                continue
            marker = committed(storage, name.chunk_id) if name else None
            files = marker.files if marker else set()
        if path not in files:
            storage.remove(path)
            removed.append(path)
    return removed


def _files_of(storage: Storage, chunk_ids: set[str]) -> dict[str, set[str]]:
    """Returns the data files of those chunks that are committed, as their marker files say."""
    if not chunk_ids:
        return {}
    there = sorted(name for name in marker_names(storage) if name in chunk_ids)
    files = {}
    for path, text in marker_files(storage, there):
        files[path.rpartition("/")[2].removesuffix(".json")] = Marker.from_json(text, path).files
    return files


def sweep_replaced(
    storage: Storage, markers: Mapping[str, Marker], before: float
) -> tuple[int, int]:
    """Deletes the files of commits that were replaced long enough ago, markers last.

    Args:
      storage: of the store.
      markers: all commits, replaced ones too.
      before: seconds since the epoch; what was replaced later stays.

    Returns:
      (deleted files, replaced commits that stay).
    """
    replacing = [marker for marker in markers.values() if marker.replaces]
    gone = {name for marker in replacing for name in marker.replaces}
    there = {name for name in marker_names(storage) if name in gone}
    removed = waiting = 0
    for marker in replacing:
        own = [name for name in marker.replaces if name in there]
        is_old = bool(own) and _is_old(storage, marker, before, gone)
        for chunk_id in own:
            if not is_old or chunk_id not in markers:
                waiting += 1
                continue
            for path in (*sorted(markers[chunk_id].files), layout.marker_file(chunk_id)):
                storage.remove(path)
                removed += 1
    return removed, waiting


def _is_old(storage: Storage, marker: Marker, before: float, gone: set[str]) -> bool:
    """Whether a merged commit was made before a moment."""
    file = storage.entry(layout.marker_file(marker.chunk_id))
    if file is None:
        # It was old enough to be removed after it was merged itself.
        return marker.chunk_id in gone
    return file.modified is not None and file.modified <= before
