"""Talks to an exported file that runs in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from classifier.exporting import runner
from featurestore.errors import RunFailed


class Served:
    """An exported file in a fresh process, which imports none of our code; a context manager.

    Args:
      format: of the file.
      path: of the file, or of the folder of a SavedModel.
      trust_model: whether Lambda layers may run.
    """

    def __init__(self, format: str, path: Path, trust_model: bool = False) -> None:
        self._format, self._path = format, path
        self._trusted = "yes" if trust_model else "no"

    def __enter__(self) -> Served:
        with ExitStack() as stack:
            # A file, because a pipe that nobody reads would block the process.
            self._errors = stack.enter_context(tempfile.TemporaryFile())
            # -P: modules of our folder must not hide packages of the same name.
            script = [sys.executable, "-P", runner.__file__, self._format]
            self._process = stack.enter_context(
                subprocess.Popen(
                    [*script, str(self._path), self._trusted],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._errors,
                )
            )
            stack.callback(self._process.kill)
            self._read(len(b"ready"))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stack.close()

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Maps uint8 (n, H, W, 3) to float32 (n, classes) probabilities."""
        return self.timed(pixels)[0]

    def timed(self, pixels: np.ndarray) -> tuple[np.ndarray, float]:
        """Returns float32 (n, classes) probabilities, and the seconds that the model took.

        Raises:
          RunFailed: when the process cannot load the file or fails on the batch.
        """
        sink = self._process.stdin
        assert sink is not None
        try:
            sink.write(runner.REQUEST.pack(*pixels.shape))
            sink.write(np.ascontiguousarray(pixels).tobytes())
            sink.flush()
        except BrokenPipeError:
            # Reading tells why the process ended.
            self._read(1)
        seconds, rows, classes = runner.ANSWER.unpack(self._read(runner.ANSWER.size))
        data = self._read(4 * rows * classes)
        return np.frombuffer(data, np.float32).reshape(rows, classes), seconds

    def _read(self, size: int) -> bytes:
        source = self._process.stdout
        assert source is not None
        data = source.read(size)
        if len(data) == size:
            return data
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"it ended with code {self._process.returncode}"
        raise RunFailed(
            f"the exported file {str(self._path)!r} does not run in a process of its own: "
            f"{reason[:300]}"
        )
