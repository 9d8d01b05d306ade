"""Lists the inputs of a run: labels them, applies the limits, and refuses an empty input."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from classifier.inputs import Ignored, ImageRef, ShardRef, list_inputs
from classifier.inputs.found import Found
from classifier.inputs.labels import Labeller
from classifier.inputs.roots import SHARDS_AND_LISTS
from featurestore.errors import UsageError
from featurestore.ignored import note_lines
from featurestore.io.storage import public_url
from pipelines.options import ExtractOptions
from pipelines.planning.plan import select

HEAD = 64


@dataclass(frozen=True)
class Listing:
    """The inputs of a run, listed lazily.

    Attributes:
      head: the first inputs.
      refs: all inputs up to the limits, with their labels; can be iterated once.
      ignored: collects the files that are not images while `refs` is iterated.
      found: collects layouts, classes and splits while `refs` is iterated.
      labeller: labels images from a table or from their names; or None.
      again: lists the inputs once more from the start, to draw a sample.
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
        say: Callable[[str], None] | None = None,
    ) -> Listing:
        """Starts to list.

        Args:
          options: of the run.
          inputs: their URIs.
          say: shows a line about the columns of each table, list and kind of shard.

        Raises:
          UsageError: for a missing or empty input, and for limits that cannot be applied.
        """
        found = Found(say=say)
        reading = replace(options.reading, output=options.output)
        labeller = options.labels.labeller(options.storage_options) if options.labels else None
        if say and labeller and labeller.table:
            say(labeller.table.columns)

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
    """Refuses an empty input, and limits that cannot be applied."""
    if not head:
        raise no_images(inputs, ignored)
    limited = options.selection.limit or options.selection.limit_per_class
    if limited and any(isinstance(ref, ShardRef) for ref in head):
        raise UsageError(
            "--limit and --limit_per_class count images, and the images of a shard are known only "
            "when it is read; name fewer shards, or unpack them with python -m pipelines.pack"
        )


def no_images(inputs: Sequence[str], ignored: Ignored) -> UsageError:
    """Builds the error for inputs without images, with what was found instead."""
    where = ", ".join(repr(public_url(uri)) for uri in inputs)
    found = note_lines(ignored.notes.values())
    if ignored.count:
        found.insert(0, f"{ignored.count} other files are there, such as {ignored.names[0]!r}")
        found.append(f"give images, {SHARDS_AND_LISTS}")
    reason = "; ".join(found) or "it is empty; give a folder of images, or shards"
    return UsageError(f"--input: no images in {where}; {reason}")
