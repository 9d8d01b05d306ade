"""What a diagnosis finds, and the case that it looks at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.options import ExtractOptions

OK, WARNING, ERROR = "ok", "warning", "error"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
      severity: ``ok``, ``warning`` for what may go wrong, or ``error`` for what will.
      topic: what it is about, such as ``packages``.
      message: what was found.
      fix: what to do; "" if nothing has to be done.
    """

    severity: str
    topic: str
    message: str
    fix: str = ""

    def __str__(self) -> str:
        line = f"{self.severity}: {self.topic}: {self.message}"
        return f"{line}\n  fix: {self.fix}" if self.fix else line


@dataclass(frozen=True)
class Case:
    """A command, and how Beam would run it.

    Attributes:
      options: of the extraction.
      runner: the runner's name in lower case and without "runner", such as ``dataflow``.
      runs_here: whether workers share this machine with the driver.
      flags: Beam's flags by name, with their defaults.
      beam_version: the installed one.
      flink_versions: the minor versions of Flink that Beam has a job server for.
    """

    options: ExtractOptions = field(default_factory=ExtractOptions)
    runner: str = "direct"
    runs_here: bool = True
    flags: Mapping[str, Any] = field(default_factory=dict)
    beam_version: str = ""
    flink_versions: tuple[str, ...] = ()

    def flag(self, name: str) -> Any:
        """Returns the value of one of Beam's flags; None if it is unknown or was not given."""
        return self.flags.get(name)
