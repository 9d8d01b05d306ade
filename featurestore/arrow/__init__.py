"""A store as one Arrow stream, for every program that takes one."""

from featurestore.arrow.lance import to_lance
from featurestore.arrow.stream import arrow_reader

__all__ = ["arrow_reader", "to_lance"]
