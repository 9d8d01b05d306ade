"""A command that kills itself at a step: ``python -m support.dying STEP MODULE ARGUMENTS...``

The step is `Step.typed`. Kills by a clock hit another moment on every machine; these do not.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from featurestore.io.storage import Storage
from featurestore.writer import ParquetFile


class Step(NamedTuple):
    """A moment in a run of one process.

    Attributes:
      moment: "before" or "after".
      number: of the calls that match, from 1.
      method: of the store's `Storage`; "write_table" is that of a part on its way to the disk.
      path: that the file's path begins with.
    """

    moment: str
    number: int
    method: str
    path: str

    @property
    def typed(self) -> str:
        """The step as one argument."""
        return " ".join(map(str, self))


def kill_at(step: Step) -> None:
    """Lets this process kill itself, as SIGKILL does, when it gets to the step."""
    owner = ParquetFile if step.method == "write_table" else Storage
    real: Callable[..., Any] = getattr(owner, step.method)
    left = [step.number]

    def call(self: Any, *args: Any) -> Any:
        path = args[1] if step.method == "publish" else args[0]
        path = self._path.name if step.method == "write_table" else path
        left[0] -= path.startswith(step.path)
        is_now = not left[0] and path.startswith(step.path)
        if is_now and step.moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(self, *args)
        if is_now:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, step.method, call)


if __name__ == "__main__":
    moment, number, method, path = sys.argv[1].split(" ")
    kill_at(Step(moment, int(number), method, path))
    del sys.argv[:2]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
