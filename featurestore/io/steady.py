"""Reads a file through an unreliable network."""

from __future__ import annotations

import io
from typing import Any

from featurestore.io.retry import retrying


class SteadyFile(io.RawIOBase):
    """A readable file that repeats a read after a transient error and never returns too little.

    Args:
      fs: the file system.
      path: on that file system.

    Raises:
      OSError: when the file cannot be opened, after retries.
    """

    def __init__(self, fs: Any, path: str) -> None:
        super().__init__()
        self._file = retrying(lambda: fs.open(path, "rb"))
        self._pushed = b""
        self._at = 0

    def head(self, size: int) -> bytes:
        """Returns the first bytes; the next read starts with them again."""
        data = self.read(size)
        try:
            self.seek(0)
        except (OSError, ValueError):
            # A server without byte ranges sends a stream, which cannot go back.
            self._pushed, self._at = data, 0
        return data

    def read(self, size: int | None = -1) -> bytes:
        """Returns `size` bytes, fewer only at the end of the file."""
        wanted = -1 if size is None else size
        if not self._pushed and wanted < 0:
            data = self._some(-1)
            self._at += len(data)
            return data
        parts = [self._pushed[:wanted] if wanted >= 0 else self._pushed]
        self._pushed = self._pushed[len(parts[0]) :]
        self._at += len(parts[0])
        missing = wanted - len(parts[0])
        while missing and (part := self._some(missing)):
            parts.append(part)
            self._at += len(part)
            missing -= len(part) if wanted >= 0 else 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _some(self, size: int) -> bytes:
        failed = False

        def attempt() -> bytes:
            nonlocal failed
            if failed:
                self._file.seek(self._at)
            failed = True
            return self._file.read(size)

        return retrying(attempt)

    def readinto(self, buffer: Any) -> int:
        """Fills a buffer."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        """Returns the rest."""
        return self.read(-1)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Moves to a position and returns it."""
        if whence == 1:
            offset, whence = self._at + offset, 0
        # Raises first for a stream, so that the state below stays as it was.
        self._file.seek(offset, whence)
        self._pushed, self._at = b"", self._file.tell()
        return self._at

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
