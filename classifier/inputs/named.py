"""The images that a user names one after the other: files, folders, patterns, shards and lists."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from fsspec.core import has_magic

from classifier.inputs.found import Found
from classifier.inputs.lister import Lister
from classifier.inputs.listfile import is_list
from classifier.inputs.listing import InputOptions, list_inputs
from classifier.inputs.refs import ImageRef, ShardRef, has_image_suffix, shard_format
from featurestore.errors import UsageError
from featurestore.io.urls import ADDRESS_ERRORS, connect, public_url

STANDARD_INPUT = "-"
Ref = ImageRef | ShardRef


def named_inputs(
    names: Sequence[str],
    options: InputOptions,
    lines: Iterable[str] = (),
    found: Found | None = None,
) -> Iterator[Ref]:
    """Lists what names stand for, in the order of the names.

    A file is taken as an image whatever its name is. Only folders, patterns, shards and lists have
    labels. A file that cannot be looked at is listed too, because reading it tells what is wrong.

    Args:
      names: each is looked at before this function returns. ``-`` stands for `lines`.
      options: how folders, shards and lists are read.
      lines: further names, one a line, which are looked at only when their turn comes.
      found: collects what is left out; its `say` gets a line for each folder.

    Raises:
      UsageError: for a name that stands for nothing.
    """
    found = found or Found()
    listed = [
        _from_lines(lines, options, found)
        if name == STANDARD_INPUT
        else _begun(_listed(name, options, found))
        for name in dict.fromkeys(names)
    ]
    return itertools.chain.from_iterable(listed)


def _from_lines(lines: Iterable[str], options: InputOptions, found: Found) -> Iterator[Ref]:
    for line in lines:
        name = line.rstrip("\r\n")
        if has_image_suffix(name) and not has_magic(name):
            # A look at each of many names would cost a request; reading a missing file tells it.
            yield _image(name)
        elif name:
            yield from _listed(name, options, found)


def _begun(refs: Iterator[Ref]) -> Iterator[Ref]:
    """Lists the first input at once, so that a mistake is told before anything is loaded."""
    head = list(itertools.islice(refs, 1))
    return itertools.chain(head, refs)


def _listed(name: str, options: InputOptions, found: Found) -> Iterator[Ref]:
    try:
        fs, path = connect(name, options.storage_options, "--input")
        kind = Lister(fs).kind(path)
        is_image = kind == "file" and not shard_format(path) and not is_list(fs, path)
    except (OSError, UsageError, *ADDRESS_ERRORS):
        is_image = True
    if is_image:
        yield _image(name)
        return
    shown = public_url(name)
    if kind == "directory" and found.say:
        found.say(f"all images of the folder {shown!r}:")
    if not kind and not has_magic(path) and "#" not in name:
        raise UsageError(
            f"IMAGE: no file {shown!r}; give image files, folders, patterns, shards (*.tar, *.zip, "
            "*.tfrecord, *.parquet), lists (*.csv) or URLs"
        )
    is_empty = True
    for ref in list_inputs([name], options, found):
        is_empty = False
        yield ref
    if is_empty:
        raise UsageError(f"IMAGE: no images in {shown!r}; give a folder of images, or shards")


def _image(name: str) -> ImageRef:
    return ImageRef(key=name, uri=name, size=0, etag="")
