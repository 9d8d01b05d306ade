"""One function from a cell of a table to a text, a label or labels, whatever wrote the table.

The same value comes as text in a CSV, as bytes in an old Parquet, as a float where its column has a
hole, and as a scalar of NumPy or PyArrow. A class must not depend on which of these it was.
"""

from __future__ import annotations

import datetime
import decimal
import json
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import Any

# What has no shape at either end of a text: every blank of Unicode, marks of byte order and of
# direction, spaces without width, and the zeros that pad texts of fixed size.
_BLANK = "".join(filter(str.isspace, map(chr, range(0x3001)))) + "\0\ufeff\u200b\u200e\u200f\u2060"
# What pandas makes of an integer in a column with a hole; "07.0" and "1.50" are no such thing.
_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0+", re.ASCII)


def text_of(value: Any) -> str:
    """Returns a cell as text, as it is written; "" for a cell that says nothing.

    Args:
      value: of any scalar type; NaN, NaT and None say nothing.

    Example:
      >>> text_of(b" cat "), text_of(3.0), text_of(2.5), text_of(float("nan")), text_of(None)
      ('cat', '3', '2.5', '', '')
      >>> text_of("0001"), text_of("NULL"), text_of("1.0"), text_of(True)
      ('0001', 'NULL', '1.0', 'True')
    """
    value = _plain(value)
    if isinstance(value, bytes):
        # Bytes that are no UTF-8 stay apart from each other.
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
    """Returns what equal keys and labels have in common, however they were typed.

    Unicode's composed form is taken, and a whole number that pandas wrote as a float is that
    number.

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
    """Returns a cell as labels: none, one or several, each once.

    Args:
      value: a scalar, or a list, tuple, set or array of scalars.
      class_names: what whole numbers stand for; a negative one means that the label is withheld.

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
    """Returns the class that a whole number stands for; anything else as it is."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if value < 0:
        return None
    return class_names[value] if value < len(class_names) else value


def _plain(value: Any) -> Any:
    """Returns what a scalar or array of NumPy or PyArrow holds; anything else as it is."""
    if hasattr(value, "as_py"):
        return value.as_py()
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if getattr(value, "ndim", None) == 0:
        if value.dtype.kind == "f":
            # The shortest text of its own width: 0.1 as float32 is not 0.10000000149.
            return float(str(value))
        # In nanoseconds, NumPy would give an integer.
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
