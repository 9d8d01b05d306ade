"""Sizes in bytes or pixels, and numbers in few digits, as users read and write them."""

from __future__ import annotations

import re

from featurestore.errors import UsageError

_SIZE = re.compile(r"(?P<number>[0-9]{1,18}(\.[0-9]+)?)\s*(?P<unit>[KMGT]?)i?B?", re.IGNORECASE)
# More digits are a mistake, and Python refuses to convert thousands of them.
_SIDES = re.compile(r"([0-9]{1,6})(?:x([0-9]{1,6}))?", re.IGNORECASE)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def shortest(value: float) -> str:
    """Writes a number in as few digits as identify it.

    Example:
      >>> shortest(1e-4), shortest(0.00010000001)
      ('0.0001', '0.00010000001')
    """
    text = f"{value:g}"
    return text if float(text) == value else repr(float(value))


def compact(value: float, decimals: int = 0) -> str:
    """Writes a positive number in at most five characters, for a column of a table.

    Args:
      value: the number.
      decimals: digits behind the point of a number below 1,000.

    Example:
      >>> [compact(number) for number in (0, 9.4, 9_999, 12_345, 123_456, 100_000_000)]
      ['0', '9.4', '9999', '12.3k', '123k', '100M']
      >>> compact(3.14159, 2)
      '3.14'
    """
    if value < 1000:
        if decimals:
            return f"{value:.{decimals}f}"
        return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.1f}"
    if value < 9999.5:
        return f"{value:.0f}"
    for unit in "kMGT":
        value /= 1000
        if value < 999.5 or unit == "T":
            break
    return f"{value:.0f}{unit}" if value >= 99.95 else f"{value:.1f}{unit}"


def seconds_text(seconds: float) -> str:
    """Writes a duration with its two largest units.

    Example:
      >>> [seconds_text(number) for number in (9.84, 75, 3725, 100_000)]
      ['9.8s', '1m15s', '1h02m', '1d03h']
    """
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours < 24 else f"{hours // 24}d{hours % 24:02d}h"


def size_text(count: float) -> str:
    """Writes a number of bytes in powers of 1,024, as `parse_size` reads it.

    Example:
      >>> size_text(999), size_text(46_003_200), size_text(1 << 61)
      ('999 bytes', '43.9 MiB', '2,097,152.0 TiB')
    """
    if count < 1024:
        return f"{count:.0f} bytes"
    unit = next(unit for unit in "KMGT" if count < 1024 * _UNITS[unit] or unit == "T")
    return f"{count / _UNITS[unit]:,.1f} {unit}iB"


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


def parse_sides(text: str) -> tuple[int, int] | None:
    """Reads ``180`` or ``180x240`` as (height, width) in pixels; returns None for other texts.

    Example:
      >>> parse_sides("180"), parse_sides("180x240"), parse_sides("180x")
      ((180, 180), (180, 240), None)
    """
    match = _SIDES.fullmatch(text)
    return (int(match[1]), int(match[2] or match[1])) if match else None
