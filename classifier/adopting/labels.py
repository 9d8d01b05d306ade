"""Reads the label file of a classifier: the name of each output, and the ids that stand for it.

Three kinds of file are in use: text with one name a line (``ImageNetLabels.txt``), JSON (a list of
names, ``imagenet_class_index.json`` with an id and a name per number, or the ``class_indices`` of
Keras's generators), and CSV with or without a header and a column of numbers.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from featurestore.errors import UsageError, one_line
from featurestore.io.storage import Storage
from featurestore.io.urls import public_url
from featurestore.labels.tables import TEXT_SUFFIXES

BACKGROUND = "background"
# Columns of a CSV that hold the name, the likeliest first.
_NAME_COLUMNS = ("name", "label", "class", "class_name", "label_name", "display_name", "labels")


@dataclass(frozen=True)
class LabelFile:
    """The content of a label file.

    Attributes:
      where: the file, as the user named it.
      names: in the order of the file's numbers.
      ids: id such as ``n01440764`` -> its number in the file.
    """

    where: str
    names: tuple[str, ...]
    ids: Mapping[str, int]


@dataclass(frozen=True)
class Classes:
    """The classes of a model's outputs.

    Attributes:
      names: one per output, all different.
      aliases: other label that images may have -> the name that it stands for.
      notes: lines for the user.
    """

    names: tuple[str, ...]
    aliases: Mapping[str, str]
    notes: tuple[str, ...] = ()


def read_labels(url: str, storage_options: Mapping[str, Any]) -> LabelFile:
    """Reads a label file.

    Args:
      url: of the file; its suffix decides, and all but .json, .csv and .tsv is text.
      storage_options: for the file system.

    Raises:
      UsageError: when it cannot be read, or does not name every number from 0.
    """
    where = public_url(url)
    folder, _, name = url.rpartition("/")
    folder = folder or ("/" if url.startswith("/") else ".")
    suffix = posixpath.splitext(name)[1].lower()
    try:
        text = Storage(folder, dict(storage_options)).read(name).decode("utf-8-sig")
        if suffix == ".json":
            pairs = _of_json(json.loads(text))
        elif suffix in TEXT_SUFFIXES:
            pairs = _of_table(list(csv.reader(io.StringIO(text), delimiter=TEXT_SUFFIXES[suffix])))
        else:
            pairs = [("", line.strip()) for line in text.rstrip().splitlines()]
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(
            f"--labels: cannot read {where!r} ({one_line(error)}); give text with one name a line, "
            "JSON such as imagenet_class_index.json, or a CSV with numbers and names"
        ) from error
    for number, (_, found) in enumerate(pairs):
        if not found:
            raise UsageError(
                f"--labels: {where!r} has no name for class {number} (counted from 0), so later "
                "names would move up; name it, or delete the empty line"
            )
    ids = {id: number for number, (id, _) in enumerate(pairs) if id}
    if len(ids) < sum(bool(id) for id, _ in pairs):
        raise UsageError(f"--labels: {where!r} gives two classes the same id; ids must differ")
    return LabelFile(where, tuple(name for _, name in pairs), ids)


def _of_json(record: Any) -> list[tuple[str, str]]:
    """Returns (id or "", name) of each class."""
    if isinstance(record, list):
        return [_entry(item) for item in record]
    if not isinstance(record, dict):
        raise ValueError("it holds neither a list nor a mapping")
    if all(isinstance(value, int) for value in record.values()):
        # Keras's generators give name -> number.
        record = {number: name for name, number in record.items()}
    return _in_order({int(number): _entry(item) for number, item in record.items()}, len(record))


def _entry(item: Any) -> tuple[str, str]:
    parts = item if isinstance(item, list) else [item]
    if not 1 <= len(parts) <= 2 or not all(isinstance(part, str) for part in parts):
        raise ValueError(f"it names a class {item!r}, not by a name, or by an id and a name")
    return ("" if len(parts) == 1 else parts[0].strip(), parts[-1].strip())


def _in_order(by_number: Mapping[int, Any], count: int) -> list[Any]:
    """Returns the entries of numbers 0 to n - 1, or 1 to n."""
    first = min(by_number, default=0)
    if first not in (0, 1) or sorted(by_number) != list(range(first, first + count)):
        raise ValueError("its numbers do not run from 0 or 1 without a gap or a repeat")
    return [by_number[number] for number in sorted(by_number)]


def _of_table(rows: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    """Returns (id or "", name) of each class of a CSV."""
    table = [[cell.strip() for cell in row] for row in rows if any(row)]
    if len({len(row) for row in table}) != 1:
        raise ValueError("its lines have different numbers of cells, or there are none")
    columns = range(len(table[0]))
    # A single column has names, whatever they look like.
    numbered = [i for i in columns if all(row[i].isdecimal() for row in table[1:])][:1]
    numbered = numbered if len(columns) > 1 else []
    known = [cell.casefold() for cell in table[0]]
    named = [known.index(name) for name in _NAME_COLUMNS if name in known]
    if named or any(not table[0][i].isdecimal() for i in numbered):
        table = table[1:]
    texts = [i for i in columns if i not in numbered]
    name = (*named, texts[-1])[0]
    id = next((i for i in texts if i != name), None)
    entries = [("" if id is None else row[id], row[name]) for row in table]
    if not numbered:
        return entries
    numbers = [int(row[numbered[0]]) for row in table]
    return _in_order(dict(zip(numbers, entries, strict=True)), len(entries))


def classes_of(found: LabelFile, outputs: int, offset: int | None) -> Classes:
    """Gives each output of a model its name.

    Args:
      found: the label file.
      outputs: how many the model has; a single one stands for two classes.
      offset: number of the output that the label file's first name, and a folder named 0, belong
        to; None when folders are not named by number.

    Raises:
      UsageError: when there are more or fewer names than outputs.
    """
    classes = max(outputs, 2)
    names, shift = list(found.names), 0
    if len(names) != classes and offset and len(names) + offset == classes:
        names, shift = [BACKGROUND] * offset + names if offset > 0 else names[-offset:], offset
    if len(names) != classes:
        raise UsageError(_mismatch(found, outputs))
    unique, notes = _numbered(names)
    pairs = [(id, number + shift) for id, number in found.ids.items()]
    if offset is not None:
        digits = len(str(classes - 1 - offset))
        for number in range(max(offset, 0), classes):
            # Folders are named 7 or 007.
            written = str(number - offset)
            pairs += [(written, number), (written.zfill(digits), number)]
    aliases = {
        label: unique[number]
        for label, number in pairs
        if 0 <= number < classes and unique[number] != label
    }
    clash = min(aliases.keys() & set(unique), default=None)
    if clash is not None:
        raise UsageError(
            f"--label_offset {offset}: {clash!r} is the name of a class in {found.where!r}, and "
            f"would also stand for {aliases[clash]!r}; leave --label_offset out"
        )
    return Classes(tuple(unique), aliases, tuple(notes))


def _mismatch(found: LabelFile, outputs: int) -> str:
    names = len(found.names)
    line = f"--labels: {found.where!r} has {names:,} names, but the model has {outputs:,} outputs; "
    if names == outputs - 1:
        return line + (
            "models with 1,001 outputs count a class 'background' before the 1,000 of ImageNet: if "
            f"this one does, add --label_offset 1, which names its first output {BACKGROUND!r}"
        )
    if names == outputs + 1:
        return line + (
            "a file with 1,001 names begins with the class 'background', which models with 1,000 "
            f"outputs lack: if {found.names[0]!r} is that class, add --label_offset -1, which "
            "leaves it out"
        )
    return line + "give the label file that belongs to this model"


def _numbered(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Numbers names that occur more than once; returns the names and notes about them."""
    counts = Counter(names)
    taken, seen, result = set(names), Counter[str](), []
    notes: dict[str, list[str]] = {}
    for name in names:
        if counts[name] > 1:
            seen[name] += 1
            while (unique := f"{name} ({seen[name]})") in taken:
                seen[name] += 1
            taken.add(unique)
            notes.setdefault(name, []).append(unique)
            name = unique
        result.append(name)
    listed = ", ".join(repr(name) for found in notes.values() for name in found)
    lines = [f"names that stand for several classes are numbered: {listed}"]
    return result, lines if notes else []
