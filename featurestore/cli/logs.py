"""Structured logs: with ``HOARFROST_LOG=json`` each line on standard error is a JSON object.

It is a variable and no flag, because it must hold before a flag is read (a wrong flag is an error
too), for every command alike, and in the templates of a cluster. The driver passes it on to its
workers, so it is set in one place.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import Any

from featurestore.errors import unknown_choice

VARIABLE = "HOARFROST_LOG"
FORMS = ("text", "json")
PACKAGES = ("featurestore", "classifier", "pipelines")
_PREFIXES = {"error: ": "error", "note: ": "info", "interrupted": "warning"}


def is_json() -> bool:
    """Whether this process logs JSON lines."""
    return os.environ.get(VARIABLE, "") == "json"


def start() -> None:
    """Makes the loggers of our packages write JSON lines, if the variable asks for it.

    Raises:
      UsageError: for an unknown form.
    """
    form = os.environ.get(VARIABLE, "")
    if form not in ("", *FORMS):
        raise unknown_choice(VARIABLE, form, FORMS)
    if form == "json":
        start_json()


def start_json() -> None:
    """Makes the loggers of our packages write JSON lines, and everything that asks `is_json`."""
    os.environ[VARIABLE] = "json"
    for package in PACKAGES:
        logger = logging.getLogger(package)
        logger.setLevel(logging.INFO)
        if not any(isinstance(handler, _JsonLines) for handler in logger.handlers):
            logger.addHandler(_JsonLines())


def event(logger: logging.Logger, message: str, level: int = logging.INFO, **fields: Any) -> None:
    """Logs what happened; without JSON lines the fields are left out.

    Args:
      logger: of the module.
      message: for a person.
      level: of `logging`.
      fields: JSON values, such as run, chunk and worker.
    """
    if logger.isEnabledFor(level):
        logger.log(level, message, extra={"fields": fields})


class _JsonLines(logging.Handler):
    """Writes each record as a line to the standard error of the moment."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields = getattr(record, "fields", {})
            line = json_line(record.levelname.lower(), record.getMessage(), **fields)
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            # Output never changes the outcome of a command.
            pass


def json_line(level: str, message: str, **fields: Any) -> str:
    """Returns a line with time (UTC), level, message and fields; those that are "" are left out."""
    now = time.time()
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
    shown = {name: value for name, value in fields.items() if value not in ("", None)}
    return json.dumps({"time": moment, "level": level, "message": message, **shown}, default=str)


def stderr_line(text: str) -> str:
    """Returns a line for standard error in the form that this process logs in."""
    if not is_json():
        return text
    prefix = next((prefix for prefix in _PREFIXES if text.startswith(prefix)), "")
    message = text.removeprefix(prefix) if prefix.endswith(" ") else text
    return json_line(_PREFIXES.get(prefix, "info"), message)
