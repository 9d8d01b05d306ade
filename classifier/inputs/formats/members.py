"""Handles what members of all archives have in common: names, folders, and what is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from classifier.inputs.layouts import FolderReader
from classifier.inputs.refs import (
    NESTED,
    REPEATED,
    ShardRef,
    UniqueNames,
    has_image_suffix,
    is_archive,
    is_hidden,
)
from classifier.pixels.filetypes import sniff
from featurestore.ignored import Ignored

Content = bytes | OSError


class Members:
    """Names the images of one archive, and counts its other members.

    Args:
      shard: the archive.
      names: yields the names of its members; called at most once.
      ignored: collects the members that are not images.
    """

    def __init__(
        self, shard: ShardRef, names: Callable[[], Iterable[str]], ignored: Ignored
    ) -> None:
        self.shard, self.ignored = shard, ignored
        self.folders = FolderReader(shard.layout, names)
        self.unique = UniqueNames()

    def key(self, name: str) -> str:
        """Returns the key of a member."""
        return f"{self.shard.key}/{name}"

    def claim(self, name: str) -> str:
        """Returns a unique name for an image; notes a name that comes again."""
        claimed = self.unique.claim(name)
        if claimed != name:
            self.ignored.note(REPEATED, self.key(claimed))
        return claimed

    def leave_out(self, name: str, content: Content) -> None:
        """Counts a member that is not an image; notes an archive."""
        if is_archive(name, content) and not is_hidden(name):
            self.ignored.leave_out(NESTED, self.key(name))
        else:
            self.ignored.add(self.key(name))


def is_image(name: str, content: Content) -> bool:
    """Whether a member is an image by its extension or its content."""
    if is_hidden(name):
        return False
    return has_image_suffix(name) or (isinstance(content, bytes) and bool(sniff(content)))


def is_damage(error: Exception) -> bool:
    """Whether an `OSError` means bad bytes; errors of a file system have a number or a subclass."""
    return type(error) is OSError and error.errno is None
