"""The state of a stack or a network on disk, so that an interrupted training resumes.

    RUN/checkpoint/
      state.json              what was trained, how far, each head's history; names the arrays
      <wave>-<epoch>-<n>.npz  arrays of a group, such as weights and slots; NumPy's format

``state.json`` is replaced in one step, after the arrays that it names were written. So one whole
state exists whenever a process dies. Order and dropout depend on seed and epoch only, so a resumed
training ends with the same weights as one that was never interrupted.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np

from featurestore.errors import one_line
from featurestore.io.storage import Storage

FOLDER = "checkpoint"
STATE = f"{FOLDER}/state.json"
SECONDS = 60.0
FORMAT_VERSION = 2


class Resumable(Protocol):
    """A training that can be kept between two epochs."""

    def start(self) -> None:
        """Begins anew."""

    def state(self) -> tuple[dict[str, Any], list[list[np.ndarray]]]:
        """Returns a record fit for JSON, and groups of arrays."""
        ...

    def restore(self, record: Mapping[str, Any], arrays: list[list[np.ndarray]]) -> None:
        """Sets the state that `state` returned; raises KeyError or ValueError for another one."""


class Checkpoint:
    """Keeps the state of a run's stacks in the run's folder."""

    def __init__(
        self,
        storage: Storage,
        run: Mapping[str, Any],
        tell: Callable[[str], None],
        seconds: float = SECONDS,
    ) -> None:
        """Reads the state, if there is one.

        Args:
          storage: the run's folder.
          run: what decides the result; the state of another run is left unused.
          tell: takes lines for the user.
          seconds: at least between two states; 0 for a state every epoch.
        """
        self._storage, self._tell, self._seconds = storage, tell, seconds
        self._run = json.loads(json.dumps({**run, "format_version": FORMAT_VERSION}))
        self._last = time.monotonic()
        self._waves: dict[str, Any] = self._read()

    def _read(self) -> dict[str, Any]:
        try:
            state = json.loads(self._storage.read(STATE))
            theirs, waves = state["run"], state["waves"]
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError):
            self._tell("note: the checkpoint cannot be read: training starts anew")
            return {}
        if theirs == self._run:
            return waves
        names = sorted(
            name for name in {*theirs, *self._run} if theirs.get(name) != self._run.get(name)
        )
        self._tell(f"note: the checkpoint has another {', '.join(names)}: training starts anew")
        return {}

    def restore(self, wave: int | str, stack: Resumable) -> int:
        """Puts a training into its kept state, or starts it.

        Args:
          wave: the number of a stack, or the head_id of a network.
          stack: to restore.

        Returns:
          How many epochs are done.
        """
        kept = self._waves.get(str(wave))
        if kept is None:
            stack.start()
            return 0
        try:
            arrays = [self._load(name) for name in kept["files"]]
            stack.restore(kept["stack"], arrays)
        except (OSError, ValueError, KeyError, BadZipFile) as error:
            self._tell(f"note: the checkpoint is damaged ({one_line(error)}): training starts anew")
            self._waves.clear()
            stack.start()
            return 0
        self._tell(f"resumed from a checkpoint: {kept['epochs']} epochs are done")
        return kept["epochs"]

    def _load(self, name: str) -> list[np.ndarray]:
        data = io.BytesIO(self._storage.read(f"{FOLDER}/{name}"))
        with np.load(data, allow_pickle=False) as file:
            return [file[key] for key in file.files]

    def save(self, wave: int | str, epochs: int, stack: Resumable) -> None:
        """Keeps a state, unless the last one is too recent.

        Args:
          wave: as for `restore`.
          epochs: that are done.
          stack: between two epochs.
        """
        if time.monotonic() - self._last < self._seconds:
            return
        record, groups = stack.state()
        files = [f"{wave}-{epochs}-{number}.npz" for number in range(len(groups))]
        for name, arrays in zip(files, groups, strict=True):
            target = io.BytesIO()
            np.savez(target, *arrays)
            self._storage.write(f"{FOLDER}/{name}", target.getvalue())
        self._waves[str(wave)] = {"epochs": epochs, "files": files, "stack": record}
        self._storage.write(STATE, json.dumps({"run": self._run, "waves": self._waves}))
        self._sweep()
        self._last = time.monotonic()

    def _sweep(self) -> None:
        """Removes the arrays of older states."""
        named = {name for kept in self._waves.values() for name in kept["files"]}
        for file in self._storage.list(FOLDER):
            if file.name.endswith(".npz") and file.name not in named:
                self._storage.remove(f"{FOLDER}/{file.name}")


def remove_checkpoint(storage: Storage) -> None:
    """Removes what `Checkpoint` wrote into a run's folder."""
    for file in storage.list(FOLDER):
        if file.name == "state.json" or file.name.endswith(".npz"):
            storage.remove(f"{FOLDER}/{file.name}")
    if not storage.list(FOLDER):
        storage.remove(FOLDER)
