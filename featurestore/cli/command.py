"""Shared by all commands: parsing, one-line errors, exit codes, quiet libraries."""

from __future__ import annotations

import argparse
import errno
import gc
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from featurestore.cli import interrupts, logs, streams
from featurestore.cli.absent import keep_pandas_out
from featurestore.cli.streams import say
from featurestore.errors import HoarfrostError, UsageError, did_you_mean, one_line

__all__ = ["VERBOSE", "Parser", "key_values", "main", "quiet_libraries", "say"]

VERBOSE = "HOARFROST_VERBOSE"
# No space left, quota exceeded, file too large.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Parser(argparse.ArgumentParser):
    """An argument parser that reports mistakes as one-line `UsageError`s with a suggestion."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message} (see --help)")

    def flags(self) -> list[str]:
        """Returns every flag that this parser knows."""
        return [name for action in self._actions for name in action.option_strings]

    def options(self) -> dict[str, argparse.Action]:
        """Returns the parser's actions by flag, without its dashes."""
        return {
            name.lstrip("-"): action for action in self._actions for name in action.option_strings
        }

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses `args`; refuses an unknown flag and suggests the most similar one."""
        known, unknown = self.parse_known_args(args, namespace)
        self.refuse_unknown(unknown)
        return known

    def refuse_unknown(self, unknown: Sequence[str], also: Sequence[str] = ()) -> None:
        """Raises for the first unknown flag.

        Args:
          unknown: arguments that parsing left over.
          also: more flags to suggest, such as Beam's.
        """
        if not unknown:
            return
        flag = unknown[0].split("=")[0]
        near = did_you_mean(flag, [*self.flags(), *also], most=1)
        kind = "flag" if flag.startswith("-") else "argument"
        self.error(f"unknown {kind} {flag!r}{near}{'?' if near else ''}")


def main(
    command: Callable[[Sequence[str]], int | None],
    argv: Sequence[str] | None = None,
    kept: str = interrupts.KEPT,
) -> NoReturn:
    """Runs `command` and ends the process with its exit code; prints errors as one line.

    Args:
      command: takes the arguments; returns an exit code, or None for 0.
      argv: the arguments without the program's name; default those of the process.
      kept: tells the user what remains after an interruption, and how to resume.
    """
    streams.escape_names()
    try:
        keep_pandas_out()
        logs.start()
        with interrupts.caught(kept):
            code = command(sys.argv[1:] if argv is None else argv) or 0
    except HoarfrostError as error:
        say(f"error: {' '.join(str(error).split())}", to_stderr=True)
        code = error.exit_code
    except KeyboardInterrupt:
        # Not from our signals: a worker was interrupted alone, for example.
        say(interrupts.interrupted_line(kept), to_stderr=True)
        code = 130
    except OSError as error:
        if os.environ.get(VERBOSE):
            raise
        say(f"error: {_explain(error)}", to_stderr=True)
        code = 2
    finally:
        streams.flush()
    # The end of a process searches all that it has imported for cycles, which frees nothing here.
    gc.freeze()
    sys.exit(code)


def _explain(error: OSError) -> str:
    """Returns a system error as one line, with the fix if it is known."""
    reason = one_line(error)
    if error.errno in _FULL:
        return f"cannot write: {reason}; free space there or write elsewhere, and start again"
    return f"{type(error).__name__}: {reason}"


def quiet_libraries() -> None:
    """Silences the log messages of TensorFlow, Beam, absl and OpenCV.

    Call it before you import them. ``HOARFROST_VERBOSE=1`` keeps the messages.
    """
    if os.environ.get(VERBOSE):
        logging.basicConfig(level=logging.INFO)
        return
    logging.getLogger().setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")


def key_values(pairs: Sequence[str], flag: str) -> dict[str, Any]:
    """Parses ``K=V`` strings to a dict; values are parsed as JSON where possible.

    Raises:
      UsageError: for a string without ``=``.

    Example:
      >>> key_values(["anon=true", "key=abc"], "--storage_options")
      {'anon': True, 'key': 'abc'}
    """
    result: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"{flag}: expected K=V, got {pair!r}")
        try:
            result[key] = json.loads(value)
        except ValueError:
            result[key] = value
    return result
