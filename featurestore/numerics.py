"""The numerics of features: engine, precision, decoder and library versions."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Numerics:
    """How features were computed, to explain differences in the last digits.

    Attributes:
      engine: ``tensorflow``, ``openvino`` or ``onnxruntime``, or ``identity`` for pixels.
      precision: ``float32``, ``float16``, ``bfloat16`` or ``int8``, or ``uint8`` for pixels.
      decoder: the libraries that decoded the images, with their versions.
      versions: library name -> version.
      model: 32 hex digits of the quantised model in an int8 store; otherwise "".
      derived: the stored maps that the features were computed from, in words; "" for images.
    """

    engine: str
    precision: str
    decoder: str
    versions: dict[str, str] = field(default_factory=dict)
    model: str = ""
    derived: str = ""

    @property
    def is_decided(self) -> bool:
        """Whether a machine has chosen them; see `featurestore.decision`."""
        return self != UNDECIDED

    @property
    def label(self) -> str:
        """Engine and precision as users name them."""
        return f"{self.engine} {self.precision}" if self.is_decided else "undecided numerics"

    @property
    def hash(self) -> str:
        """16 hex digits; equal for equal numerics."""
        record = dataclasses.asdict(self)
        for newer in ("model", "derived"):
            if not record[newer]:
                # The field is newer than the format: without it, the hash is that of older stores.
                del record[newer]
        return digest(record)[:16]


# A store of distributed workers has these until the first worker decides.
UNDECIDED = Numerics("", "", "")


def digest(record: Any) -> str:
    """Returns the 64 hex digits of the sha256 over a JSON-ready record with sorted keys."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
