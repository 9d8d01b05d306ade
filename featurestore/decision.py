"""The numerics of a store that a worker decides, in ``numerics.json``.

A run on one machine chooses engine and precision before it creates the store, and writes them into
the spec. A run on distributed workers cannot: the driver may lack the workers' GPU or packages. Its
spec leaves the numerics open, and the first worker writes them into this file, exclusively.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from featurestore import layout
from featurestore.errors import CorruptStore
from featurestore.io.storage import Storage
from featurestore.numerics import Numerics, digest
from featurestore.spec import StoreSpec


@dataclass(frozen=True)
class Decision:
    """What a worker decided for all.

    Attributes:
      numerics: of the store from now on.
      record: engine, precision, reason and measurements, JSON-ready.
    """

    numerics: Numerics
    record: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Returns the text of ``numerics.json``."""
        record = {"numerics": dataclasses.asdict(self.numerics), "record": dict(self.record)}
        return json.dumps({**record, "checksum": digest(record)[:16]}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> Decision:
        """Reads ``numerics.json``.

        Raises:
          CorruptStore: when the text is damaged or was edited.
        """
        try:
            record = json.loads(text)
            checksum = record.pop("checksum")
            decision = cls(Numerics(**record["numerics"]), record["record"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptStore(
                f"{where}: not a store's numerics ({type(error).__name__}: {error}); restore the "
                "file from a backup, or extract into a new store"
            ) from error
        if checksum != digest(record)[:16]:
            raise CorruptStore(f"{where}: was edited by hand; restore the file from a backup")
        return decision


def read_decision(storage: Storage) -> Decision | None:
    """Returns what a worker decided for a store; None before the first one."""
    try:
        text = storage.read(layout.NUMERICS)
    except FileNotFoundError:
        return None
    return Decision.from_json(text, f"{storage.public_url}/{layout.NUMERICS}")


def decide(storage: Storage, decision: Decision) -> Decision:
    """Decides a store's numerics; returns the decision that counts, which may be a faster one."""
    if storage.create(layout.NUMERICS, decision.to_json()):
        return decision
    first = read_decision(storage)
    assert first is not None
    return first


def with_decision(storage: Storage, spec: StoreSpec) -> StoreSpec:
    """Completes a spec that leaves the numerics open, if a worker has decided meanwhile."""
    decision = None if spec.numerics.is_decided else read_decision(storage)
    return dataclasses.replace(spec, numerics=decision.numerics) if decision else spec
