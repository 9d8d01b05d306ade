"""Groups members of a tar into WebDataset's samples, and reads their label files."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Mapping, Sequence

from classifier.inputs.formats.members import Content, is_image
from classifier.inputs.layouts import FolderReader
from featurestore.labels.cells import labels_of, text_of
from featurestore.labels.columns import SPLIT_COLUMNS, find_column
from featurestore.labels.splits import split_in_cell

# In order of precedence.
LABEL_SUFFIXES = ("json", "cls", "txt")
# Members of one name are held together up to this size.
_MAX_SAMPLE_BYTES = 1 << 27
_LABEL_KEYS = ("labels", "class_name", "label", "cls", "class")
Member = tuple[str, Content]
Labels = tuple[str, ...] | None
Notes = Mapping[tuple[str, str], bytes]  # (name without suffix, suffix) -> content


class Sample:
    """Consecutive members that share a name up to its first dot."""

    def __init__(self, stem: str, start: int, members: Sequence[Member] = ()) -> None:
        self.stem, self.start, self.size = stem, start, 0
        self.members = list(members)

    @property
    def suffixes(self) -> set[str]:
        """The suffixes of its label files."""
        return {split_member(name)[1] for name, _ in self.members}.intersection(LABEL_SUFFIXES)

    def is_full(self, name: str) -> bool:
        """Whether a member begins another sample although it shares the name."""
        last = posixpath.splitext(self.members[-1][0])[0] if self.members else ""
        return self.size > _MAX_SAMPLE_BYTES and posixpath.splitext(name)[0] != last

    def following(self, stem: str, start: int) -> Sample:
        """Returns the next sample; one of the same name inherits the label files."""
        shared = [member for member in self.members if posixpath.splitext(member[0])[0] == stem]
        return Sample(stem, start, [member for member in shared if note_suffix(member[0])])

    def add(self, name: str, content: Content) -> None:
        self.members.append((name, content))
        self.size += len(content) if isinstance(content, bytes) else 0


def parted(sample: Sample) -> Iterator[tuple[Sample, bool]]:
    """Splits consecutive samples of one name, where the name of a member comes again.

    Yields:
      (sample, whether its label files are certainly its own, because all parts are alike).
    """
    parts, seen = [Sample(sample.stem, sample.start)], [set[str]()]
    for name, content in sample.members:
        kind = name if is_image(name, content) else note_suffix(name) and name.lower()
        if kind and kind in seen[-1]:
            parts.append(Sample(sample.stem, sample.start))
            seen.append(set())
        if kind:
            seen[-1].add(kind)
        parts[-1].add(name, content)
    is_sure = all(kinds == seen[0] for kinds in seen)
    return ((part, is_sure) for part in parts)


def split_member(name: str) -> tuple[str, str]:
    """Splits a member's name at the first dot of its last component, like WebDataset.

    Example:
      >>> split_member("a.b/0001.left.jpg")
      ('a.b/0001', 'left.jpg')
    """
    folder, base = posixpath.split(name)
    stem, _, suffix = base.partition(".")
    return posixpath.join(folder, stem), suffix.lower()


def note_suffix(name: str) -> str:
    """Returns the suffix of a label file, "" for any other."""
    suffix = name.rpartition(".")[2].lower()
    return suffix if suffix in LABEL_SUFFIXES else ""


def owner_and_suffix(name: str) -> tuple[str, str]:
    """Splits the name of a label file: (name of its image without suffix, its own suffix)."""
    return posixpath.splitext(name)[0], note_suffix(name)


def _found_notes(name: str, stem: str, notes: Notes) -> Iterator[tuple[Labels, str | None]]:
    """Yields the labels and split of each label file: the image's own first, then the sample's."""
    for owner in dict.fromkeys((posixpath.splitext(name)[0], stem)):
        for suffix in LABEL_SUFFIXES:
            data = notes.get((owner, suffix))
            if data is not None:
                yield _read_note(suffix, data)


def facts_of(
    name: str, stem: str, notes: Notes, folders: FolderReader
) -> tuple[tuple[str, ...], str | None]:
    """Returns an image's labels and split, from its label files, the sample's, or folders."""
    labels: Labels = None
    split: str | None = None
    for found, noted_split in _found_notes(name, stem, notes):
        labels = found if labels is None else labels
        split = noted_split if split is None else split
    if labels is not None and split is not None:
        return labels, split or None
    by_folder, folder_split = folders.facts(name)
    split = folder_split if split is None else split
    return by_folder if labels is None else labels, split or None


def disagree(name: str, stem: str, notes: Notes) -> bool:
    """Whether label files of one name give an image different labels."""
    for owner in dict.fromkeys((posixpath.splitext(name)[0], stem)):
        own = {key: data for key, data in notes.items() if key[0] == owner}
        if len(own) == 1:
            return False
        found = {labels for labels, _ in _found_notes(owner, owner, own) if labels is not None}
        if found:
            return len(found) > 1
    return False


def _read_note(suffix: str, data: bytes) -> tuple[Labels, str | None]:
    """Reads a label file: (labels, split), each None where it is absent; a null split is ""."""
    if suffix != "json":
        return labels_of(data) or None, None
    try:
        record = json.loads(text_of(data))
    except ValueError:
        return None, None
    split = None
    if isinstance(record, dict):
        named = find_column(record, SPLIT_COLUMNS)
        if isinstance(record.get(named), str):
            split = split_in_cell(record[named])
        elif named and record[named] is None:
            split = ""
        record = record.get(find_column(record, _LABEL_KEYS))
    if isinstance(record, dict):
        return None, split
    # An empty list means that there is no label; a null means nothing.
    return labels_of(record) or (() if isinstance(record, list) else None), split
