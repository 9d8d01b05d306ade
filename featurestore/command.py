"""What every command line of Hoarfrost shares: one-line errors, exit codes, quiet libraries."""

from __future__ import annotations

import argparse
import difflib
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from featurestore.errors import HoarfrostError, UsageError

VERBOSE = "HOARFROST_VERBOSE"


class Parser(argparse.ArgumentParser):
    """An argument parser whose mistakes are `UsageError`s with a suggestion, in one line."""

    def __init__(self, **kwargs) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message} (see --help)")

    def parse_args(self, args=None, namespace=None):
        """Parses `args`, refusing an unknown flag with the nearest known one."""
        known, unknown = self.parse_known_args(args, namespace)
        self.refuse_unknown(unknown)
        return known

    def refuse_unknown(self, unknown: Sequence[str], also: Sequence[str] = ()) -> None:
        """Raises for the first unknown flag.

        Args:
          unknown: what parsing left over.
          also: further flags that exist, such as Beam's, to suggest from.
        """
        if not unknown:
            return
        flag = unknown[0].split("=")[0]
        known = [name for action in self._actions for name in action.option_strings] + list(also)
        near = difflib.get_close_matches(flag, known, n=1, cutoff=0.6)
        hint = f"; did you mean {near[0]}?" if near else ""
        kind = "flag" if flag.startswith("-") else "argument"
        self.error(f"unknown {kind} {flag!r}{hint}")


def main(
    command: Callable[[Sequence[str]], int | None], argv: Sequence[str] | None = None
) -> NoReturn:
    """Runs `command` and ends the process with its exit code; a user's mistake is one line.

    Args:
      command: takes the arguments, returns an exit code or None for 0.
      argv: the arguments without the program's name; default the process's own.
    """
    try:
        code = command(sys.argv[1:] if argv is None else argv) or 0
        sys.stdout.flush()
    except HoarfrostError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except OSError as error:
        if os.environ.get(VERBOSE):
            raise
        reason = " ".join(str(error).split()) or "no message"
        print(f"error: {type(error).__name__}: {reason}", file=sys.stderr)
        code = 2
    sys.exit(code)


def say(line: str = "", *, to_stderr: bool = False) -> None:
    """Prints one line for the user, at once; goes on when nobody listens any more."""
    stream = sys.stderr if to_stderr else sys.stdout
    try:
        print(line, file=stream, flush=True)
    except BrokenPipeError:
        # A closed pipe, as of `| head -1`, must not end a run half-way.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def quiet_libraries() -> None:
    """Keeps TensorFlow's, Beam's, absl's and OpenCV's chatter out of sight.

    Must run before they are imported. ``HOARFROST_VERBOSE=1`` keeps the chatter.
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
    """Turns ``K=V`` strings into a dict; a value that is JSON is taken as JSON.

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
