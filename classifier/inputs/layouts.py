"""Finds what folder names mean, by one rule for folders, patterns and archives.

- A lone folder that holds folders and no images wraps the whole: ``pets/`` above ``pets/cat`` and
  ``pets/dog``. A lone folder with the name of a split wraps only folders named like splits.
- Folders named like splits are splits, whatever lies beside them: two or more, or a lone one.
- Otherwise the first folder is the class. Deeper folders belong to it, as in Keras.

Only folders that hold images count; see `trees`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from classifier.inputs.refs import ShardDamaged
from classifier.inputs.trees import Folder, MemberTree, Tree
from featurestore.labels.cells import composed
from featurestore.labels.splits import may_be_split, split_of

LAYOUTS = ("auto", "class", "split", "flat")
# The layout of an archive in whose set images lie at the top: nothing wraps the whole.
TOP = "top"
_FOUND = "found"
Facts = tuple[tuple[str, ...], str | None]  # (labels, split)


@dataclass(frozen=True)
class Layout:
    """What the folders of an input mean.

    Attributes:
      kind: ``class`` (root/class/...), ``split`` (root/split/class/...) or ``flat``.
      above: the folders that wrap everything.
      is_found: whether it was detected; in a user's own layout any name may be a split.
    """

    kind: str
    above: Folder = ()
    is_found: bool = True

    def facts(self, path: str) -> Facts:
        """Returns the class and the split of a path.

        Args:
          path: relative to the root, with forward slashes.

        Returns:
          (labels, split); ((), None) for a path beside the wrapping folders or the splits.

        Example:
          >>> Layout("split").facts("train/cat/tabby/1.jpg"), Layout("class").facts("1.jpg")
          ((('cat',), 'train'), ((), None))
          >>> Layout("split").facts("more/cat/1.jpg"), Layout("class", ("pets",)).facts("a/b/1.jpg")
          (((), None), ((), None))
        """
        folders = tuple(path.split("/")[:-1])
        if self.kind == "flat" or folders[: len(self.above)] != self.above:
            return (), None
        folders = folders[len(self.above) :]
        if self.kind == "class" or not folders:
            return _labels(folders[:1]), None
        split = split_of(folders[0]) or (None if self.is_found else folders[0])
        return (_labels(folders[1:2]), split) if split else ((), None)

    def beside(self, path: str) -> str:
        """Returns the folder of a path beside the splits or the wrapping folders; else "".

        Example:
          >>> Layout("split").beside("more/cat/1.jpg"), Layout("split").beside("val/cat/1.jpg")
          ('more/', '')
        """
        folders, depth = path.split("/")[:-1], len(self.above)
        if tuple(folders[:depth]) == self.above:
            depth += 1
            if self.kind != "split" or len(folders) < depth or self.facts(path)[1]:
                return ""
        return "/".join(folders[:depth]) + "/"

    def suspect(self, path: str) -> str:
        """Returns a folder of a path that may be a split but counts as something else.

        Example:
          >>> Layout("class").suspect("test/1.jpg"), Layout("class").suspect("a/val/1.jpg")
          ('test/', 'a/val/')
          >>> Layout("class").suspect("seg_train/cat/1.jpg"), Layout("class").suspect("cat/1.jpg")
          ('seg_train/', '')
        """
        folders = path.split("/")[:-1]
        first = len(self.above) + (self.kind == "split")
        if self.kind == "flat" or not self.is_found:
            return ""
        for depth in range(first, min(first + 2, len(folders))):
            if may_be_split(folders[depth]):
                return "/".join(folders[: depth + 1]) + "/"
        return ""

    def encode(self) -> str:
        """Encodes the layout as text, for a plan.

        Example:
          >>> Layout.decode(Layout("class", ("my pets",)).encode())
          Layout(kind='class', above=('my pets',), is_found=True)
        """
        return f"{_FOUND} {self.kind} {'/'.join(self.above)}" if self.is_found else self.kind

    @classmethod
    def decode(cls, text: str) -> Layout:
        """Decodes what `encode` returned."""
        if not text.startswith(f"{_FOUND} "):
            return cls(text, is_found=False)
        _, kind, above = text.split(" ", 2)
        return cls(kind, tuple(above.split("/")) if above else ())

    def __str__(self) -> str:
        meaning = {
            "class": "the first folder is the class",
            "split": "the first folder is the split, the next the class",
            "flat": "folders mean nothing",
        }
        wrapped = f", below {'/'.join(self.above) + '/'!r}" if self.above else ""
        return meaning[self.kind] + wrapped


def _labels(folders: Folder) -> tuple[str, ...]:
    """Normalises classes like the labels of tables; keys keep the folder's own spelling."""
    return tuple(composed(folder) or folder for folder in folders)


def find_layout(tree: Tree, is_top: bool = False) -> Layout:
    """Detects the layout of a tree.

    Args:
      tree: the folders.
      is_top: whether it is certain that no folder wraps the whole.

    Example:
      >>> find_layout(MemberTree(["train/cat/1.jpg", "val/dog/2.jpg", "models/x/3.jpg"])).kind
      'split'
      >>> find_layout(MemberTree(["pets/cat/1.jpg", "pets/test/2.jpg"]))
      Layout(kind='class', above=('pets',), is_found=True)
    """
    above: Folder = ()
    while True:
        names = tree.folders(above)
        splits = _splits(tree, above)
        if len(splits) > 1:
            return Layout("split", above)
        if not names and not above:
            return Layout("flat")
        held = list(itertools.islice((n for n in names if tree.holds((*above, n))), 2))
        if len(held) != 1:
            return Layout("class", above)
        inner = (*above, held[0])
        if splits and len(_splits(tree, inner)) < 2:
            return Layout("split", above)
        wraps = not (is_top or tree.has_images(above) or tree.has_images(inner))
        if not wraps and not splits:
            return Layout("class", above)
        if not wraps:
            return Layout("split", above)
        above = inner


def _splits(tree: Tree, above: Folder) -> list[str]:
    """Returns at most two folders that are named like splits and hold images."""
    names = (name for name in tree.folders(above) if split_of(name))
    return list(itertools.islice((n for n in names if tree.holds((*above, n))), 2))


def choose_layout(asked: str, tree: Callable[[], Tree]) -> Layout:
    """Returns the layout that the user asked for, or detects it.

    Args:
      asked: one of `LAYOUTS`, or `TOP`. ``class`` counts from the top. ``split`` counts from below
        the wrapping folders where splits lie there, else from the top.
      tree: makes the tree; called only where it is needed.
    """
    if asked in ("auto", TOP):
        return find_layout(tree(), asked == TOP)
    if asked != "split":
        return Layout(asked, is_found=False)
    whole = tree()
    above = find_layout(whole).above
    return Layout("split", above if _splits(whole, above) else (), is_found=False)


class FolderReader:
    """Finds class and split of an archive's members, by the layout of the archive or of its set.

    Args:
      layout: ``auto``, the user's, `TOP`, or the encoded layout of the archive's set.
      names: yields the members' names; called at most once.
    """

    def __init__(self, layout: str, names: Callable[[], Iterable[str]]) -> None:
        self._asked, self._names = layout, names
        self._of_set = layout.startswith(_FOUND)
        self._layout = Layout.decode(layout) if self._of_set else None
        self._splits: set[str] = set()

    def facts(self, name: str) -> Facts:
        """Returns (labels, split) of a member.

        Raises:
          ShardDamaged: when the member does not fit the layout of the archive's set.
        """
        if "/" not in name and not self._of_set:
            return (), None
        if self._layout is None:
            self._layout = choose_layout(self._asked, lambda: MemberTree(self._names()))
        if self._of_set:
            self._check(self._layout, name)
        return self._layout.facts(name)

    def _check(self, layout: Layout, name: str) -> None:
        """Refuses a member that would have changed the set's layout, had its detection seen it."""
        folders = tuple(name.split("/")[:-1])
        depth = len(layout.above)
        fits = folders[:depth] == layout.above and (not depth or len(folders) > depth)
        if layout.kind == "class" and fits and len(folders) > depth and split_of(folders[depth]):
            self._splits.add(folders[depth])
            fits = len(self._splits) < 2
        if not fits:
            raise ShardDamaged(
                f"{name!r} does not fit the folders of the other archives of its set, where "
                f"{layout}; extract into a new store with --layout class, split or flat"
            )
