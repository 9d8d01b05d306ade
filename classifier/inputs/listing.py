"""Lists the images and shards of an ``--input``: folders, patterns, files and lists.

Listing streams: entries come folder by folder in sorted order, so that a hundred million images
need no more memory than the largest class.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from classifier.inputs.columns import Asked
from classifier.inputs.formats import tfds
from classifier.inputs.found import Found
from classifier.inputs.layouts import LAYOUTS
from classifier.inputs.listfile import is_list, read_list
from classifier.inputs.reading import read_heads
from classifier.inputs.refs import (
    ImageRef,
    ShardRef,
    etag_of,
    has_image_suffix,
    is_hidden,
    shard_format,
    split_in_name,
)
from classifier.inputs.roots import Entry, Root
from classifier.inputs.series import with_layouts
from classifier.inputs.shards import WITH_COLUMNS, describe_columns
from classifier.pixels.filetypes import sniff
from featurestore.errors import UsageError, unknown_choice
from featurestore.io.urls import public_url, query_of


@dataclass(frozen=True)
class InputOptions:
    """How inputs are read.

    Attributes:
      layout: what folder names mean; ``auto`` detects it.
      storage_options: for remote file systems.
      asked: the columns of lists, Parquet and TFRecord that the user named.
      output: the folder that the command writes, which must lie apart from every input; or "".
    """

    layout: str = "auto"
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    asked: Asked = field(default_factory=Asked)
    output: str = ""

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise unknown_choice("--layout", self.layout, LAYOUTS)


def list_inputs(
    uris: Sequence[str], options: InputOptions, found: Found | None = None
) -> Iterator[ImageRef | ShardRef]:
    """Lists the images and shards of one or several inputs, in a stable order.

    Args:
      uris: folders, patterns, image files or shards; local paths or any fsspec URL.
      options: how to read them.
      found: collects ignored files and layouts; whoever takes an image counts it there.

    Yields:
      References with keys that are unique over all inputs.

    Raises:
      UsageError: for an input that does not exist or cannot be read, or a column that is not there.
    """
    found = found or Found()
    roots = _roots(uris, options)
    tables, explained = {"list" for root in roots if root.is_list}, set[str]()
    for ref in _list_all(roots, options, found):
        if isinstance(ref, ShardRef) and ref.format in WITH_COLUMNS:
            tables.add(ref.format)
            ref = replace(ref, etag=options.asked.mark(ref.etag))
            if found.say and ref.format not in explained:
                if line := describe_columns(ref, options.storage_options):
                    explained.add(ref.format)
                    found.say(line)
        yield ref
    if options.asked != Asked() and not tables:
        raise UsageError(
            "--image_column and --label_column name columns of lists, Parquet and TFRecord "
            "(--label_column also of --labels), and the input has none of these; leave the flags "
            "out"
        )


def _roots(uris: Sequence[str], options: InputOptions) -> list[Root]:
    roots = [Root(uri, options.layout, options.storage_options) for uri in uris]
    for root in roots:
        if options.asked.image and root.is_file and root.paths:
            root.is_list |= is_list(root.fs, root.paths[0], options.asked.image)
        if options.output:
            root.require_apart(options.output)
    files = [root for root in roots if root.is_file and not root.is_list]
    if len(files) > 1:
        files[0].take_files(files[1:], options.layout)
        roots = [root for root in roots if root not in files[1:]]
    return roots


def _list_all(
    roots: Sequence[Root], options: InputOptions, found: Found
) -> Iterator[ImageRef | ShardRef]:
    for root, prefix in zip(roots, _prefixes([root.path for root in roots]), strict=True):
        if root.is_list:
            for ref in read_list(root.uri, options.storage_options, options.asked, found):
                yield replace(ref, key=prefix + ref.key)
        elif root.wanted:
            yield from _take(root, prefix, root.wanted, found)
        else:
            listed = _list_root(root, prefix, found)
            yield from with_layouts(listed, options.layout, options.storage_options, found)


def _take(
    root: Root, prefix: str, wanted: tfds.Slice, found: Found
) -> Iterator[ImageRef | ShardRef]:
    """Yields the shards of a slice, from a folder that TensorFlow Datasets wrote."""
    lengths = tfds.read_shard_lengths(root.fs, root.path)
    if lengths is None:
        raise UsageError(
            f"--input: {public_url(root.uri)!r} has no {tfds.INFO_FILE}; slices such as "
            "#train[:40%] need a folder that TensorFlow Datasets wrote"
        )
    shards = [ref for ref in _list_root(root, prefix, found) if isinstance(ref, ShardRef)]
    for shard in tfds.take(shards, wanted, lengths):
        yield replace(shard, split=root.split) if root.split else shard


def open_input(
    uri: str, storage_options: Mapping[str, Any] | None = None, asked: Asked | None = None
) -> list[ImageRef]:
    """Lists the images of one input, without its shards."""
    options = InputOptions(storage_options=storage_options or {}, asked=asked or Asked())
    return [ref for ref in list_inputs([uri], options) if isinstance(ref, ImageRef)]


def _prefixes(paths: Sequence[str]) -> list[str]:
    """Returns a prefix of keys per root: as many trailing folders as distinguish the roots.

    A single root needs none. Patterns below one folder share its root, and so their keys.
    """
    distinct = sorted({tuple(path.strip("/").split("/")) for path in paths})
    if len(distinct) == 1:
        return [""] * len(paths)
    depth = 1
    while len({root[-depth:] for root in distinct}) < len(distinct):
        depth += 1
    return ["/".join(path.strip("/").split("/")[-depth:]) + "/" for path in paths]


def _list_root(root: Root, prefix: str, found: Found) -> Iterator[ImageRef | ShardRef]:
    unsure: list[Entry] = []
    for name, info in root.entries():
        if is_hidden(name) or info.get("type") == "other":
            found.ignored.add(prefix + name)
        elif query_of(info["name"]):
            # A web page lists links with queries too; without its query a link leads elsewhere.
            found.ignored.add(f"{prefix}{name.partition('?')[0]}?...")
        elif has_image_suffix(name):
            yield _image(root, prefix, (name, info), found)
        elif kind := shard_format(name):
            split = root.layout.facts(name)[1] or split_in_name(name)
            uri, size, etag = root.address(info), info.get("size") or 0, etag_of(info)
            yield ShardRef(prefix + name, uri, size, etag, kind, split)
        else:
            unsure.append((name, info))
            if len(unsure) >= 1000:
                yield from _by_content(root, prefix, unsure, found)
                unsure = []
    yield from _by_content(root, prefix, unsure, found)
    for store in root.stores:
        found.ignored.add(f"{prefix}{root.relative(store)}/ (a feature store)")


def _by_content(root: Root, prefix: str, entries: list[Entry], found: Found) -> Iterator[ImageRef]:
    """Yields the files without an image's extension whose content is an image."""
    heads = read_heads(root.fs, [info["name"] for _, info in entries])
    for (name, info), head in zip(entries, heads, strict=True):
        if sniff(head):
            yield _image(root, prefix, (name, info), found)
        else:
            found.ignored.add(prefix + name)


def _image(root: Root, prefix: str, entry: Entry, found: Found) -> ImageRef:
    name, info = entry
    labels, split = root.layout.facts(name)
    found.place(public_url(root.uri), root.layout, name)
    return ImageRef(
        key=prefix + posixpath.normpath(name),
        uri=root.address(info),
        size=info.get("size") or 0,
        etag=etag_of(info),
        labels=labels,
        split=split,
        problem=info.get("problem", ""),
    )
