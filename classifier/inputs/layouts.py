"""Class and split names from folder names."""

from __future__ import annotations

from collections.abc import Collection

from classifier.inputs.refs import SPLIT_NAMES

LAYOUTS = ("auto", "class", "split", "flat")


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


def label_and_split(path: str, layout: str) -> tuple[tuple[str, ...], str | None]:
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
