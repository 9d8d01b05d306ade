"""Sizes in bytes and numbers in few digits, as users read and write them."""

from __future__ import annotations

import re

from featurestore.errors import UsageError

_SIZE = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>[KMGT]?)i?B?", re.IGNORECASE)
_DECIMAL = ((1e3, "kB"), (1e6, "MB"), (1e9, "GB"), (1e12, "TB"))
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def shortest(value: float) -> str:
    """Writes a number in as few digits as identify it.

    Example:
      >>> shortest(1e-4), shortest(0.00010000001)
      ('0.0001', '0.00010000001')
    """
    text = f"{value:g}"
    return text if float(text) == value else repr(float(value))


def size_text(count: float) -> str:
    """Writes a number of bytes in decimal units.

    `parse_size` reads powers of 1,024: a size that you copy from a message into a flag suffices.

    Example:
      >>> size_text(999), size_text(46_003_200), size_text(2e15)
      ('999 bytes', '46.0 MB', '2,000.0 TB')
    """
    if count < 1000:
        return f"{count:.0f} bytes"
    size, unit = next((s, u) for s, u in _DECIMAL if count < 1000 * s or u == "TB")
    return f"{count / size:,.1f} {unit}"


def parse_size(text: str, flag: str, expected: str = "a size") -> int:
    """Reads a number of bytes, such as ``500MB`` or ``20G``, in powers of 1,024.

    Raises:
      UsageError: for any other text; the message names the flag and what it expects.

    Example:
      >>> parse_size("1.5GB", "--memory")
      1610612736
    """
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise UsageError(f"{flag}: expected {expected} such as 500MB, got {text!r}")
    return int(float(match["number"]) * _UNITS[match["unit"].upper()])
