"""How features were computed: engine, precision, decoder, library versions."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Numerics:
    """How features were computed: enough to explain a difference in the last digits.

    Attributes:
      engine: ``tensorflow`` or ``openvino``.
      precision: ``float32``, ``float16``, ``bfloat16`` or ``int8``.
      decoder: the libraries that made pixels of bytes, with versions.
      versions: library name to version.
      model: 32 hex digits of the quantised model that an int8 store keeps, else "".
    """

    engine: str
    precision: str
    decoder: str
    versions: dict[str, str] = field(default_factory=dict)
    model: str = ""

    @property
    def label(self) -> str:
        """Engine and precision, as the user names them."""
        return f"{self.engine} {self.precision}"

    @property
    def hash(self) -> str:
        """16 hex digits; equal for equal numerics."""
        record = dataclasses.asdict(self)
        if not self.model:
            # The field came later; without it the hash is that of older stores.
            del record["model"]
        return digest(record)[:16]


def digest(record: Any) -> str:
    """Returns 64 hex digits of the sha256 over a JSON-ready record, its keys sorted."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
