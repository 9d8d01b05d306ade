"""Class and split names from folder names."""

from __future__ import annotations

from collections.abc import Callable, Collection

from classifier.inputs.refs import SPLIT_NAMES

LAYOUTS = ("auto", "class", "split", "flat")
Facts = tuple[tuple[str, ...], str | None]  # (labels, split)


def detect_layout(first_level: Collection[str]) -> str:
    """Decides what the folders directly below a root mean.

    Args:
      first_level: names of the folders there, hidden ones left out.

    Returns:
      ``flat`` without folders, ``split`` when every folder is named like a split, else ``class``.

    Example:
      >>> detect_layout(["train", "val"]), detect_layout(["cat", "test"]), detect_layout([])
      ('split', 'class', 'flat')
    """
    if not first_level:
        return "flat"
    return "split" if all(name.lower() in SPLIT_NAMES for name in first_level) else "class"


def label_and_split(path: str, layout: str) -> Facts:
    """Reads the class and the split off a path.

    Args:
      path: relative to the root, with forward slashes.
      layout: ``class`` (root/class/...), ``split`` (root/split/class/...) or ``flat``.

    Returns:
      (labels, split); deeper folders belong to their class, as in Keras.

    Example:
      >>> label_and_split("train/cat/tabby/1.jpg", "split")
      (('cat',), 'train')
      >>> label_and_split("1.jpg", "class")
      ((), None)
    """
    folders = path.split("/")[:-1]
    split = None
    if layout == "split" and folders:
        split = SPLIT_NAMES.get(folders[0].lower(), folders[0])
        folders = folders[1:]
    if layout == "flat" or not folders:
        return (), split
    return (folders[0],), split


def streamed_facts(path: str) -> Facts:
    """Reads the class and the split off a member of an archive whose other members are not known.

    The class is the member's own folder. A folder named like a split is one when it lies above the
    class, or at the top; a stream cannot know whether others beside it are classes.

    Example:
      >>> streamed_facts("pets/train/cat/1.jpg"), streamed_facts("pets/cat/1.jpg")
      ((('cat',), 'train'), (('cat',), None))
      >>> streamed_facts("test/1.jpg"), streamed_facts("1.jpg")
      (((), 'test'), ((), None))
    """
    folders = path.split("/")[:-1]
    for depth, folder in enumerate(folders):
        last = depth == len(folders) - 1
        if folder.lower() in SPLIT_NAMES and (depth == 0 or not last):
            return tuple(folders[depth + 1 :][-1:]), SPLIT_NAMES[folder.lower()]
    return tuple(folders[-1:]), None


def archive_facts(paths: Collection[str]) -> Callable[[str], Facts]:
    """Returns what reads class and split off the members of an archive, having seen all of them.

    Folders that wrap everything mean nothing. Below them, folders that are all named like splits
    are splits, as on disk. The class is the member's own folder.

    Args:
      paths: of every image in the archive.

    Example:
      >>> facts = archive_facts(["pets/cat/1.jpg", "pets/test/2.jpg"])
      >>> facts("pets/test/2.jpg")
      (('test',), None)
    """
    folders = [path.split("/")[:-1] for path in paths]
    depth = 0
    while folders and all(len(names) > depth for names in folders):
        level = {names[depth] for names in folders}
        if len(level) > 1 or next(iter(level)).lower() in SPLIT_NAMES:
            break
        depth += 1
    level = {names[depth] for names in folders if len(names) > depth}
    if detect_layout(level) != "split":
        return lambda path: (tuple(path.split("/")[:-1][-1:]), None)

    def split_facts(path: str) -> Facts:
        names = path.split("/")[:-1][depth:]
        if not names:
            return (), None
        return tuple(names[1:][-1:]), SPLIT_NAMES[names[0].lower()]

    return split_facts
