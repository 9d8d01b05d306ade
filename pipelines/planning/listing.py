"""The inputs of a run as they are listed: labelled, limited, and checked not to be empty."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from classifier.inputs import Ignored, ImageRef, ShardRef, list_inputs
from classifier.inputs.found import Found
from classifier.inputs.labels import Labeller
from featurestore.errors import UsageError
from featurestore.io.storage import public_url
from pipelines.options import ExtractOptions
from pipelines.planning.plan import select

HEAD = 64


@dataclass(frozen=True)
class Listing:
    """The inputs of a run, listed as they are taken.

    Attributes:
      head: the first of them.
      refs: all of them, once, up to the limits; they have their labels.
      ignored: collects the files that are no images, as `refs` is taken.
      found: collects layouts, classes and splits, as `refs` is taken.
      labeller: what labels them besides folders and shards, or None.
      again: lists them once more from the start, to draw a sample.
    """

    head: Sequence[ImageRef | ShardRef]
    refs: Iterator[ImageRef | ShardRef]
    ignored: Ignored
    found: Found
    labeller: Labeller | None
    again: Callable[[], Iterator[ImageRef | ShardRef]]

    @classmethod
    def open(
        cls,
        options: ExtractOptions,
        inputs: Sequence[str],
        told: Callable[[str], None] | None = None,
    ) -> Listing:
        """Begins to list.

        Args:
          options: of the run.
          inputs: to list.
          told: is given one line for every table, list and kind of shard: the columns taken.

        Raises:
          UsageError: for an input that is missing or empty, and limits that cannot be kept.
        """
        found = Found(say=told)
        reading = replace(options.reading, output=options.output)
        labeller = options.labels.labeller(options.storage_options) if options.labels else None
        if told and labeller and labeller.table:
            told(labeller.table.columns)

        def take(found: Found) -> Iterator[ImageRef | ShardRef]:
            refs = list_inputs(inputs, reading, found)
            if labeller:
                refs = (labeller.apply(r) if isinstance(r, ImageRef) else r for r in refs)
            for ref in select(refs, options.selection):
                if isinstance(ref, ImageRef):
                    found.count(ref.labels, ref.split)
                yield ref

        refs = take(found)
        head = list(itertools.islice(refs, HEAD))
        _check_head(options, inputs, head, found.ignored)
        every = itertools.chain(head, refs)
        return cls(head, every, found.ignored, found, labeller, lambda: take(Found()))


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
