"""One ``--input``: where it begins, and the files below it.

Local folders are walked one by one, through links. Elsewhere the file system lists what lies below
the folders of classes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from fsspec.core import has_magic
from fsspec.implementations.local import LocalFileSystem

from classifier.inputs.formats import tfds
from classifier.inputs.layouts import Layout, choose_layout
from classifier.inputs.lister import Lister, fixed_folder
from classifier.inputs.listfile import is_list
from classifier.inputs.refs import has_image_suffix, shard_format
from classifier.inputs.trees import FolderTree
from featurestore import layout as store_layout
from featurestore.errors import UsageError
from featurestore.io.lookup import Info
from featurestore.io.places import relation
from featurestore.io.retry import io_errors
from featurestore.io.urls import address_of, connect, is_chain, is_web, public_url

Entry = tuple[str, Info]  # (path relative to the root, the file system's entry)
_SPEC_FILES = {store_layout.SPEC, "parts"}
# Detecting the layout keeps up to so many entries for the listing itself.
_KEPT = 200_000
# What is read besides images, for messages.
SHARDS_AND_LISTS = "shards (*.tar, *.zip, *.tfrecord, *.parquet) or a list (*.csv)"


class Root:
    """An input as the user gave it.

    Args:
      uri: a folder, a pattern, a file, a list, or a slice of a TFDS folder.
      layout: what folder names mean; ``auto`` detects it.
      options: for the file system.

    Attributes:
      layout: what its folders mean.
      split: that the user gave to its slice, or "".

    Raises:
      UsageError: when the input does not exist, cannot be read, or is of an unsupported kind.
    """

    layout: Layout

    def __init__(self, uri: str, layout: str, options: Mapping[str, Any]) -> None:
        _refuse_addresses(uri)
        self.uri, self.options = uri, options
        self.split = ""
        self.wanted: tfds.Slice | None = None
        self.paths: list[str] | None = None
        self.pattern = ""
        self.stores: dict[str, None] = {}
        self.is_list = self.is_file = False
        self._kept: dict[str, list[Info]] = {}
        try:
            with io_errors():
                self._resolve(uri)
        except OSError as error:
            raise UsageError(f"--input: cannot read {public_url(uri)!r}: {error}") from error
        self._find_layout(layout)

    def _resolve(self, uri: str) -> None:
        self.fs, path = connect(uri, self.options, "--input")
        self._lister = Lister(self.fs)
        if "#" in uri and not self._lister.kind(path):
            self.split, uri = tfds.named_split(uri)
            self.uri, self.wanted = tfds.split_request(uri)
            path = connect(self.uri, self.options, "--input")[1]
        self.path = path.rstrip("/") or path
        self.is_local = isinstance(self.fs, LocalFileSystem)
        kind = self._lister.kind(self.path)
        if has_magic(self.path) and not kind:
            self.pattern, self.paths = self.path, _outermost(self._lister.glob(self.path))
            if not self.paths:
                raise UsageError(
                    f"--input: nothing matches {public_url(self.uri)!r}; quote the pattern, and "
                    "use ** to match folders at any depth"
                )
            self.path = fixed_folder(self.pattern)
        elif kind == "file":
            self.is_file, self.is_list = True, is_list(self.fs, self.path)
            self.paths, self.path = [self.path], self.path.rpartition("/")[0]
        elif kind != "directory":
            raise UsageError(
                f"--input: {public_url(self.uri)!r} does not exist; give a folder of images, a "
                f"pattern such as 'photos/**/*.jpg', {SHARDS_AND_LISTS}"
            )

    def take_files(self, others: Sequence[Root], layout: str) -> None:
        """Joins files that were given one by one, as by a shell that expands a pattern."""
        self.paths = sorted({path for root in (self, *others) for path in root.paths or []})
        self.path = os.path.commonpath([path.rpartition("/")[0] for path in self.paths])
        self._find_layout(layout)

    def relative(self, path: str) -> str:
        """Returns a path of the file system relative to this root."""
        return path.lstrip("/").removeprefix(self.path.lstrip("/")).lstrip("/")

    def address(self, info: Info) -> str:
        """Returns a listed file's URI, without credentials."""
        return address_of(self.fs, info["name"])

    def require_apart(self, output: str) -> None:
        """Refuses an output inside, around or equal to this input.

        Args:
          output: the folder that the command writes; its file system has the same options.

        Raises:
          UsageError: naming both.
        """
        found = relation(output, address_of(self.fs, self.path), self.options)
        # An output may lie beside a pattern's matches, single files and a list.
        is_open = self.paths is None or "**" in self.pattern
        if found == "equals" or (found == "lies inside" and is_open):
            raise UsageError(
                f"--output: {public_url(output)!r} {found} the folder of --input "
                f"{public_url(self.uri)!r}, where later runs would take the output for images, or "
                "overlook images; choose a folder beside it"
            )
        if found == "contains" and not self.is_list:
            raise UsageError(
                f"--output: {public_url(output)!r} contains --input {public_url(self.uri)!r}, and "
                "nothing but what this command writes may lie there; choose a folder beside it"
            )

    def entries(self) -> Iterator[Entry]:
        """Yields the files below the root, in a stable order.

        Raises:
          UsageError: for a folder that cannot be read.
        """
        with self._listing():
            for info in self._infos():
                yield self.relative(info["name"]), info

    @contextmanager
    def _listing(self) -> Iterator[None]:
        try:
            with io_errors():
                yield
        except OSError as error:
            raise UsageError(
                f"--input: cannot list all of {public_url(self.uri)!r}: {error}; make it readable, "
                "or name the folders that are"
            ) from error

    def _find_layout(self, asked: str) -> None:
        ls = self._keep if self.paths is None else self._matches()
        with self._listing():
            self.layout = choose_layout(asked, lambda: FolderTree(self.path, ls))

    def _keep(self, path: str) -> list[Info]:
        """Lists a folder and keeps its entries for the listing itself."""
        if path not in self._kept:
            found = self._ls(path)
            if sum(map(len, self._kept.values())) + len(found) > _KEPT:
                self._kept.clear()
            self._kept[path] = found
        return self._kept[path]

    def _matches(self) -> Callable[[str], Sequence[Info]]:
        """Returns a function that lists only folders above, at and below a pattern's matches."""
        whole: set[str] = set()
        below: dict[str, dict[str, Info]] = {}
        for path in self.paths or ():
            name, kind = path, "file"
            if not (self.is_file or has_image_suffix(path) or shard_format(path)):
                kind = self._lister.kind(path)
            if kind == "directory":
                whole.add(self.relative(path))
            while self.relative(name) and kind:
                folder = name.rpartition("/")[0]
                info = {"name": name, "type": kind}
                below.setdefault(self.relative(folder), {})[name] = info
                name, kind = folder, "directory"

        def ls(path: str) -> Sequence[Info]:
            above = inner = self.relative(path)
            while above and above not in whole:
                above = above.rpartition("/")[0]
            return self._keep(path) if above else list(below.get(inner, {}).values())

        return ls

    def _infos(self) -> Iterator[Info]:
        if self.paths is None:
            infos = self._ls(self.path)
            if self.path in self.stores:
                raise UsageError(
                    f"--input: {public_url(self.uri)!r} is a feature store, not a folder of "
                    "images; give the folder of the images, or a pattern such as '*/*.jpg' when "
                    "they lie in the same folder"
                )
            for info in infos:
                # Folder by folder, so that no more than one is in memory.
                if info["type"] == "directory":
                    yield from self._below(info["name"])
                else:
                    yield info
            return
        for path in self.paths:
            if self._lister.kind(path) == "directory":
                yield from self._below(path)
            else:
                yield self._lister.info(path)

    def _below(self, folder: str) -> Iterator[Info]:
        if self.is_local:
            yield from self._walk(folder, (os.path.realpath(self.path),))
            return
        known = self._kept.get(folder)
        if known and all(info["type"] != "directory" for info in known):
            yield from self._ls(folder)
        elif self.relative(folder).count("/") < len(self.layout.above) + self._split_levels:
            for info in self._ls(folder):
                is_folder = info["type"] == "directory"
                yield from self._below(info["name"]) if is_folder else (info,)
        else:
            yield from self._find(folder)

    @property
    def _split_levels(self) -> int:
        return int(self.layout.kind == "split")

    def _walk(self, folder: str, above: tuple[str, ...]) -> Iterator[Info]:
        real = os.path.realpath(folder)
        if real in above:
            return  # a link back up
        for info in self._ls(folder):
            if info["type"] == "directory":
                yield from self._walk(info["name"], (*above, real))
            else:
                yield info

    def _ls(self, path: str) -> list[Info]:
        """Returns the entries of a folder, without stores in it; a store has none."""
        if path in self._kept:
            return self._kept.pop(path)
        found = self._lister.ls(path)
        if _SPEC_FILES <= {info["name"].rstrip("/").rpartition("/")[2] for info in found}:
            self.stores[path] = None
            return []
        return [info for info in found if not self._is_store(info)]

    def _is_store(self, info: Info) -> bool:
        """Whether a local entry is a store; elsewhere each look would cost a request."""
        names = (os.path.join(info["name"], name) for name in _SPEC_FILES)
        is_folder = self.is_local and info["type"] == "directory"
        found = is_folder and all(map(os.path.exists, names))
        if found:
            self.stores[info["name"]] = None
        return found

    def _find(self, folder: str) -> list[Info]:
        """Returns the files below a folder that is not local, without those of stores."""
        found = self._lister.find(folder)
        names = [info["name"] for info in found]
        with_parts = {name.rpartition("/parts/")[0] for name in names if "/parts/" in name}
        with_spec = {name.removesuffix(f"/{store_layout.SPEC}") for name in names}
        stores = with_parts & with_spec
        self.stores.update(dict.fromkeys(sorted(stores)))
        below = tuple(f"{store}/" for store in stores)
        return [info for info in found if not info["name"].startswith(below)]


def _refuse_addresses(uri: str) -> None:
    """Refuses addresses that cannot be stored without their secrets."""
    if is_chain(uri):
        raise UsageError(
            f"--input: {public_url(uri)!r} is a chain of addresses, which is not supported; give "
            "the folder or the archive itself"
        )
    if is_web(uri) and "?" in uri and not has_magic(uri.split("?")[0]):
        raise UsageError(
            f"--input: {public_url(uri)!r} was given with a query, and signatures are never stored "
            "with an image; give the address without the query, and credentials as "
            "--storage_options"
        )


def _outermost(paths: Sequence[str]) -> list[str]:
    """Drops folders above other matches: ``photos/**`` matches both."""
    above: Collection[str] = {path.rpartition("/")[0] for path in paths}
    return [path for path in paths if path.rstrip("/") not in above]
