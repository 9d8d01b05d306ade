"""A random sample of a stream, in one pass and in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass
class Reservoir(Generic[T]):
    """Keeps each item of a stream with the same probability.

    This is algorithm R of Vitter, "Random Sampling with a Reservoir" (1985).

    Attributes:
      capacity: how many items to keep at most.
      below: returns a random whole number from 0 to below its argument.
      items: the sample so far.
      seen: how many items were offered.

    Example:
      >>> sample = Reservoir(2, lambda stop: 0)
      >>> for item in "abcd":
      ...     sample.offer(item)
      >>> sample.items
      ['d', 'b']
    """

    capacity: int
    below: Callable[[int], int]
    items: list[T] = field(default_factory=list)
    seen: int = 0

    def offer(self, item: T) -> None:
        """Takes in the next item of the stream."""
        self.seen += 1
        if len(self.items) < self.capacity:
            self.items.append(item)
        elif (place := self.below(self.seen)) < self.capacity:
            self.items[place] = item
