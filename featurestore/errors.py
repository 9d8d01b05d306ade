"""The errors that users see, each with the exit code of the command that raises it.

One line of message gives the rule, the value that broke it, the likely cause and the fix.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection


class HoarfrostError(Exception):
    """A failure that users see as one line instead of a traceback."""

    exit_code = 1


class RunFailed(HoarfrostError):
    """A run that ended but failed its own checks, such as too many bad images."""

    exit_code = 1


class UsageError(HoarfrostError):
    """A mistake of the user: in a flag, a path, a name or a store."""

    exit_code = 2


class SpecMismatch(UsageError):
    """Features whose identity (base, pixels, views or dtype) differs from the store's."""


class CorruptStore(HoarfrostError):
    """Stored bytes that contradict their record."""

    exit_code = 2


def unknown_choice(what: str, got: str, choices: Collection[str]) -> UsageError:
    """Returns the error for a name that is not one of `choices`, and suggests similar names.

    Args:
      what: the user's name for the choice, such as ``--model``.
      got: the unknown value.
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


def did_you_mean(got: str, choices: Collection[str], most: int = 3) -> str:
    """Returns the end of a message about an unknown name, or "" when no choice is similar.

    Example:
      >>> did_you_mean("photoes", ["photos", "shards"]), did_you_mean("x", ["photos"])
      ('; did you mean photos', '')
    """
    by_fold = {choice.casefold(): choice for choice in choices}
    near = difflib.get_close_matches(got.casefold(), list(by_fold), n=most, cutoff=0.6)
    return f"; did you mean {' or '.join(sorted(by_fold[name] for name in near))}" if near else ""


def one_line(error: BaseException, most: int = 2000) -> str:
    """Returns an error's whole message as one line, or its class when the message is empty.

    Example:
      >>> one_line(ValueError("first,\\n  then second")), one_line(KeyError())
      ('first, then second', 'KeyError')
    """
    return " ".join(str(error).split())[:most] or type(error).__name__


def cause(error: BaseException) -> str:
    """Returns the first line of another library's error, which may have many."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


WRITABLE = "choose a folder or bucket that exists and that you may write to"


def cannot_write(flag: str, where: str, error: BaseException, fix: str = WRITABLE) -> UsageError:
    """Returns the error for an output that cannot be written.

    Args:
      flag: the flag that names the output.
      where: the output's address, without credentials.
      error: the file system's error.
      fix: what the user can do.

    Example:
      >>> str(cannot_write("--output", "out", OSError("read-only"), "choose another folder"))
      "--output: cannot write to 'out': read-only; choose another folder"
    """
    return UsageError(f"{flag}: cannot write to {where!r}: {error}; {fix}")
