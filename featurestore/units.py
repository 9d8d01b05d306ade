"""Numbers as users write and read them: sizes in bytes, and numbers in few digits."""

from __future__ import annotations

import re

from featurestore.errors import UsageError


def shortest(value: float) -> str:
    """Spells a number in few digits, but never as another number's.

    Example:
      >>> shortest(1e-4), shortest(0.00010000001)
      ('0.0001', '0.00010000001')
    """
    text = f"{value:g}"
    return text if float(text) == value else repr(float(value))


_SIZE = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>[KMGT]?)i?B?", re.IGNORECASE)


_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(text: str, flag: str, expected: str = "a size") -> int:
    """Reads a number of bytes, such as ``500MB`` or ``20G``, in powers of 1,024.

    Raises:
      UsageError: for anything else, naming the flag and what was expected.

    Example:
      >>> parse_size("1.5GB", "--memory")
      1610612736
    """
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise UsageError(f"{flag}: expected {expected} such as 500MB, got {text!r}")
    return int(float(match["number"]) * _UNITS[match["unit"].upper()])
