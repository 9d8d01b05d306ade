"""The errors a user may meet; each carries the exit code of the command that raises it.

A message says, in one line, the rule, the value that broke it, the likely cause and the fix.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection


class HoarfrostError(Exception):
    """Any failure that is explained to the user in one line instead of by a traceback."""

    exit_code = 1


class RunFailed(HoarfrostError):
    """A run that ended, and failed its own checks (too many bad images, a ledger that is off)."""

    exit_code = 1


class UsageError(HoarfrostError):
    """A mistake in what the user asked for: a flag, a path, a name, a store."""

    exit_code = 2


class SpecMismatch(UsageError):
    """Features of another identity (base, pixels, views or dtype) than the store holds."""


class CorruptStore(HoarfrostError):
    """Stored bytes that contradict what was recorded of them."""

    exit_code = 2


def unknown_choice(what: str, got: str, choices: Collection[str]) -> UsageError:
    """Builds the error for a name that is none of `choices`, near names first.

    Args:
      what: the thing that was chosen, as the user knows it, such as ``--model``.
      got: the value that is not known.
      choices: every allowed value.

    Example:
      >>> str(unknown_choice("--pooling", "mean", ["none", "avg", "max"]))
      "--pooling: unknown value 'mean'; choose from avg, max, none"
      >>> str(unknown_choice("--model", "VGG61", ["VGG16", "VGG19", "Xception"]))
      "--model: unknown value 'VGG61'; did you mean VGG16 or VGG19? (all: VGG16, VGG19, Xception)"
    """
    everything = ", ".join(sorted(choices))
    if near := did_you_mean(got, choices):
        return UsageError(f"{what}: unknown value {got!r}{near}? (all: {everything})")
    return UsageError(f"{what}: unknown value {got!r}; choose from {everything}")


def did_you_mean(got: str, choices: Collection[str]) -> str:
    """Returns the end of a message about a name that is unknown; empty where none is near it.

    Example:
      >>> did_you_mean("photoes", ["photos", "shards"]), did_you_mean("x", ["photos"])
      ('; did you mean photos', '')
    """
    by_fold = {choice.casefold(): choice for choice in choices}
    near = difflib.get_close_matches(got.casefold(), list(by_fold), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(sorted(by_fold[name] for name in near))}" if near else ""


def one_line(error: BaseException, most: int = 2000) -> str:
    """Returns an error's whole message as one line; the error's class where it has none.

    Example:
      >>> one_line(ValueError("first,\\n  then second")), one_line(KeyError())
      ('first, then second', 'KeyError')
    """
    return " ".join(str(error).split())[:most] or type(error).__name__


def cause(error: BaseException) -> str:
    """Returns the first line of another library's error; libraries like to write many."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


WRITABLE = "choose a folder or bucket that exists and that you may write to"


def cannot_write(flag: str, where: str, error: BaseException, fix: str = WRITABLE) -> UsageError:
    """Builds the error for an output that cannot be written.

    Args:
      flag: that names the output.
      where: its address, fit to be shown.
      error: of the file system.
      fix: what the user can do.

    Example:
      >>> str(cannot_write("--output", "out", OSError("read-only"), "choose another folder"))
      "--output: cannot write to 'out': read-only; choose another folder"
    """
    return UsageError(f"{flag}: cannot write to {where!r}: {error}; {fix}")
