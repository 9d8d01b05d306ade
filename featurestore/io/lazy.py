"""JSON objects that are read when they are asked for: a million of them take little memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any


class LazyObject(Mapping[str, Any]):
    """A JSON object that is kept as its text.

    Example:
      >>> dict(LazyObject('{"lanes": 2}'))
      {'lanes': 2}
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __getitem__(self, name: str) -> Any:
        return json.loads(self._text)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(json.loads(self._text))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, LazyObject) and self._text == other._text:
            return True
        return isinstance(other, Mapping) and dict(json.loads(self._text)) == dict(other)

    def __len__(self) -> int:
        return len(json.loads(self._text))
