"""Converts table cells to texts and labels, in the same way for every table format.

One value may be a text in a CSV, bytes in an old Parquet file, a float in a column with missing
cells, or a scalar of NumPy or PyArrow. All of them must give the same class.
"""

from __future__ import annotations

import datetime
import decimal
import json
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import Any

# Invisible characters at the ends of a text: Unicode's white space, byte order and direction marks,
# spaces without width, and the zeros that pad texts of fixed size.
_BLANK = "".join(filter(str.isspace, map(chr, range(0x3001)))) + "\0\ufeff\u200b\u200e\u200f\u2060"
# pandas writes integers like this in a column with missing cells; "07.0" and "1.50" do not match.
_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0+", re.ASCII)


def text_of(value: Any) -> str:
    """Returns a cell's text as it is written; "" for an empty cell.

    Args:
      value: of any scalar type; NaN, NaT and None are empty cells.

    Example:
      >>> text_of(b" cat "), text_of(3.0), text_of(2.5), text_of(float("nan")), text_of(None)
      ('cat', '3', '2.5', '', '')
      >>> text_of("0001"), text_of("NULL"), text_of("1.0"), text_of(True)
      ('0001', 'NULL', '1.0', 'True')
    """
    value = _plain(value)
    if isinstance(value, bytes):
        # Escapes keep different bytes different when they are not UTF-8.
        value = value.decode("utf-8", errors="backslashreplace")
    if value is None or isinstance(value, str):
        return (value or "").strip(_BLANK)
    if isinstance(value, float | decimal.Decimal):
        return _number_text(value)
    if isinstance(value, datetime.datetime):
        return _time_text(value)
    if isinstance(value, Mapping):
        return json.dumps(value, sort_keys=True, ensure_ascii=False, default=text_of)
    return str(value).strip(_BLANK)


def composed(text: str) -> str:
    """Returns a text without blanks at its ends, in Unicode's composed form (NFC)."""
    return unicodedata.normalize("NFC", text.strip(_BLANK))


def same_text(value: Any) -> str:
    """Returns one text for all spellings of a key or label.

    It is in Unicode's composed form, and a whole number that pandas wrote as a float is an integer.

    Example:
      >>> same_text("caf\u0065\u0301") == same_text("caf\u00e9")
      True
      >>> same_text("1.0"), same_text(1), same_text("01.0"), same_text("v1.0")
      ('1', '1', '01.0', 'v1.0')
    """
    text = composed(text_of(value))
    whole = _WHOLE.fullmatch(text)
    return ("0" if whole[1] == "-0" else whole[1]) if whole else text


def labels_of(value: Any, class_names: Sequence[str] = ()) -> tuple[str, ...]:
    """Returns a cell's labels: none, one or several distinct ones.

    Args:
      value: a scalar, or a list, tuple, set or array of scalars.
      class_names: the names that whole numbers stand for; a negative number means no label.

    Example:
      >>> labels_of([1, 0.0], ["cat", "dog"]), labels_of(-1, ["cat"]), labels_of(None)
      (('dog', 'cat'), (), ())
      >>> labels_of("x "), labels_of([b"x", "x", ""]), labels_of([1.0, None])
      (('x',), ('x',), ('1',))
    """
    value = _plain(value)
    if isinstance(value, Collection) and not isinstance(value, str | bytes | Mapping):
        inner = (label for item in value for label in labels_of(item, class_names))
        return tuple(dict.fromkeys(inner))
    label = same_text(_named(value, class_names) if class_names else value)
    return (label,) if label else ()


def _named(value: Any, class_names: Sequence[str]) -> Any:
    """Returns the class name for a whole number; other values unchanged."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if value < 0:
        return None
    return class_names[value] if value < len(class_names) else value


def _plain(value: Any) -> Any:
    """Returns the Python value of a NumPy or PyArrow scalar or array; other values unchanged."""
    if hasattr(value, "as_py"):
        return value.as_py()
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if getattr(value, "ndim", None) == 0:
        if value.dtype.kind == "f":
            # Via the shortest text at its own precision: float32 0.1 must not be 0.10000000149.
            return float(str(value))
        # `item` would return an integer for nanoseconds.
        return value.astype("M8[us]").item() if value.dtype.kind == "M" else value.item()
    return value.tolist() if hasattr(value, "tolist") else value


def _number_text(value: float | decimal.Decimal) -> str:
    exact = decimal.Decimal(value)
    if exact.is_nan():
        return ""
    if not exact.is_finite():
        return str(float(exact))
    if exact == exact.to_integral_value():
        return str(int(exact))
    return str(value) if isinstance(value, float) else format(exact.normalize(), "f")


def _time_text(value: datetime.datetime) -> str:
    if value != value:  # pandas' NaT
        return ""
    is_day = value.time() == datetime.time() and value.tzinfo is None
    return value.date().isoformat() if is_day else value.isoformat(" ")
