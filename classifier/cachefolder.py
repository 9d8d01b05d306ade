"""Files that a machine keeps between commands, because making them takes seconds.

The folder is ``$HOARFROST_CACHE_FOLDER``, by default ``~/.cache/hoarfrost``. Its size is bounded,
and you can delete it at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurestore.io.drafts import draft_name

CACHE_VARIABLE = "HOARFROST_CACHE_FOLDER"


@dataclass(frozen=True)
class CacheFolder:
    """The kept files of one kind: zips, each under a digest of what it was made from.

    Attributes:
      kind: name of the folder.
      entries: what every file holds.
      most: number of files to keep; the least recently used ones are removed.
    """

    kind: str
    entries: Collection[str]
    most: int

    def read(self, key: Any) -> bytes | None:
        """Returns a kept file; None when there is none, or when it is damaged.

        Args:
          key: what the file was made from, JSON-ready.
        """
        file = self._file(key)
        with contextlib.suppress(OSError):
            data = file.read_bytes()
            if self._is_sound(data):
                os.utime(file)
                return data
        return None

    def keep(self, key: Any, data: bytes) -> None:
        """Writes a file atomically; does nothing where the folder cannot be written."""
        file = self._file(key)
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            draft = file.with_name(draft_name())
            try:
                draft.write_bytes(data)
                draft.replace(file)
            finally:
                draft.unlink(missing_ok=True)
            kept = file.parent.glob("*.zip")
            for old in sorted(kept, key=lambda path: path.stat().st_mtime)[: -self.most]:
                old.unlink(missing_ok=True)

    def _file(self, key: Any) -> Path:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        root = Path(os.environ.get(CACHE_VARIABLE) or Path(home) / "hoarfrost")
        return root / self.kind / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.zip"

    def _is_sound(self, data: bytes) -> bool:
        """Returns whether a zip can be read to its end."""
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                return archive.testzip() is None and set(self.entries) <= set(archive.namelist())
        except (zipfile.BadZipFile, OSError, EOFError, ValueError):
            return False


def zipped(entries: Iterable[tuple[str, bytes]]) -> bytes:
    """Returns an uncompressed zip of (name, content) entries; equal entries give equal bytes."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, content in entries:
            # `ZipInfo` dates every entry 1980.
            archive.writestr(zipfile.ZipInfo(name), content)
    return sink.getvalue()
