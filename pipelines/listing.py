"""The inputs of a run as they are listed: labelled, limited, and checked not to be empty."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from classifier.inputs import Ignored, ImageRef, ShardRef, list_inputs
from classifier.inputs.labels import Labeller
from featurestore.errors import UsageError
from featurestore.storage import public_url
from pipelines.options import ExtractOptions
from pipelines.plan import select

HEAD = 64


@dataclass(frozen=True)
class Listing:
    """The inputs of a run, listed as they are taken.

    Attributes:
      head: the first of them.
      refs: all of them, once, up to the limits; they have their labels.
      ignored: collects the files that are no images, as `refs` is taken.
      labeller: what labels them besides folders and shards, or None.
      again: lists them once more from the start, to draw a sample.
    """

    head: Sequence[ImageRef | ShardRef]
    refs: Iterator[ImageRef | ShardRef]
    ignored: Ignored
    labeller: Labeller | None
    again: Callable[[], Iterator[ImageRef | ShardRef]]

    @classmethod
    def open(cls, options: ExtractOptions, inputs: Sequence[str]) -> Listing:
        """Begins to list.

        Raises:
          UsageError: for an input that is missing or empty, and limits that cannot be kept.
        """
        ignored = Ignored()
        reading = replace(options.reading, output=options.output)
        labeller = options.labels.labeller(options.storage_options) if options.labels else None

        def take(left_out: Ignored) -> Iterator[ImageRef | ShardRef]:
            refs = list_inputs(inputs, reading, left_out)
            if labeller:
                refs = (labeller.apply(r) if isinstance(r, ImageRef) else r for r in refs)
            return select(refs, options.selection)

        refs = take(ignored)
        head = list(itertools.islice(refs, HEAD))
        _check_head(options, inputs, head, ignored)
        every = itertools.chain(head, refs)
        return cls(head, every, ignored, labeller, lambda: take(Ignored()))


def _check_head(
    options: ExtractOptions,
    inputs: Sequence[str],
    head: Sequence[ImageRef | ShardRef],
    ignored: Ignored,
) -> None:
    """Refuses an empty input, and limits that cannot be kept."""
    if not head:
        raise UsageError(_nothing_found(inputs, ignored))
    limited = options.selection.limit or options.selection.limit_per_class
    if limited and any(isinstance(ref, ShardRef) for ref in head):
        raise UsageError(
            "--limit and --limit_per_class count images, and those of a shard are known only when "
            "it has been read; name fewer shards, or unpack them with python -m pipelines.pack"
        )


def _nothing_found(inputs: Sequence[str], ignored: Ignored) -> str:
    where = ", ".join(repr(public_url(uri)) for uri in inputs)
    if not ignored.count:
        return f"--input: {where} is empty; give a folder of images or *.tar shards"
    return (
        f"--input: no images in {where}; {ignored.count} other files are there, such as "
        f"{ignored.names[0]!r}"
    )
