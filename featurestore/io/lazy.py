"""JSON objects that are read when they are asked for: a million of them take little memory."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any


class LazyObject(Mapping[str, Any]):
    """A JSON object that is kept as its text, alone or compressed with others; see `pack`.

    Two texts with the same 64-bit hash are taken for equal.

    Example:
      >>> dict(LazyObject('{"lanes": 2}'))
      {'lanes': 2}
    """

    __slots__ = ("_at", "_hash", "_source")

    def __init__(self, text: str) -> None:
        self._source: str | _Pack = text
        self._at = 0
        self._hash = hash(text)

    @property
    def _text(self) -> str:
        source = self._source
        return source if isinstance(source, str) else _unpacked(source)[self._at]

    def __reduce__(self) -> tuple[type[LazyObject], tuple[str]]:
        # Another process has other hashes.
        return LazyObject, (self._text,)

    def __getitem__(self, name: str) -> Any:
        return json.loads(self._text)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(json.loads(self._text))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, LazyObject) and self._hash == other._hash:
            return True
        return isinstance(other, Mapping) and dict(json.loads(self._text)) == dict(other)

    def __len__(self) -> int:
        return len(json.loads(self._text))


class _Pack:
    """The texts of some objects, compressed together."""

    __slots__ = ("data",)

    def __init__(self, texts: list[str]) -> None:
        self.data = zlib.compress(json.dumps(texts).encode(), 1)


@lru_cache(maxsize=4)
def _unpacked(pack: _Pack) -> list[str]:
    return json.loads(zlib.decompress(pack.data))


def pack(objects: Iterable[LazyObject]) -> None:
    """Compresses the texts of objects that are alike; to read one then unpacks all of them.

    A few hundred are a good number. Read them in their order, so that each pack is unpacked once.
    """
    objects = list(objects)
    packed = _Pack([each._text for each in objects])
    for at, each in enumerate(objects):
        each._source, each._at = packed, at
