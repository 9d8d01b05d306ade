"""Divides the rows of an epoch among the processes of a training and their workers."""

from __future__ import annotations

from dataclasses import dataclass

from featurestore.errors import UsageError


@dataclass(frozen=True)
class Shard:
    """One reader's share of an epoch.

    A rank gets a stretch of the epoch's rows, and its workers get whole batches of that stretch. So
    the shares of all readers make up the epoch, and the number of a rank's batches does not depend
    on its workers.

    Attributes:
      rank: number of the process, from 0.
      ranks: processes that share the epoch. Their rows differ by one at most.
      even: gives every rank as many rows, and leaves out up to `ranks` - 1 rows of the epoch, each
        time others if the rows are shuffled.
      worker: number of the worker within the process, from 0.
      workers: of the process.

    Example:
      >>> [Shard(rank, 3).rows(10) for rank in range(3)]
      [range(0, 3), range(3, 6), range(6, 10)]
      >>> [Shard(rank, 3, even=True).rows(10) for rank in range(3)]
      [range(0, 3), range(3, 6), range(6, 9)]
      >>> [Shard(worker=worker, workers=2).rows(10, batch_size=4) for worker in range(2)]
      [range(0, 4), range(4, 10)]
    """

    rank: int = 0
    ranks: int = 1
    even: bool = False
    worker: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        for what, number, count in (
            ("rank", self.rank, self.ranks),
            ("worker", self.worker, self.workers),
        ):
            if not 0 <= number < count:
                raise UsageError(
                    f"a {what} is counted from 0 and below the number of {what}s; got {what} "
                    f"{number!r} of {count!r}"
                )

    def rows(self, count: int, batch_size: int = 1) -> range:
        """Returns which of an epoch's rows are this reader's.

        Args:
          count: rows of the epoch.
          batch_size: rows per batch; only the last worker's last batch may have fewer.
        """
        rank, ranks = self.rank, self.ranks
        each = count // ranks
        first = rank * each if self.even else count * rank // ranks
        stop = first + each if self.even else count * (rank + 1) // ranks
        batches = -(-(stop - first) // batch_size)
        ends = (batches * worker // self.workers for worker in (self.worker, self.worker + 1))
        return range(*(min(stop, first + end * batch_size) for end in ends))
