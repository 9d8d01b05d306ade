"""Which stored rows train a head, and which validate it.

A store's features may be far larger than memory, so only small columns are read to decide.
Validation rows are chosen by content hash, never by position. So a duplicate, or another view of
the same image, lies on the same side of the carve on every machine and in every later run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from classifier.features.selection import Selection, is_below
from classifier.features.tally import Tally, note_views, notes_on, shorten
from featurestore.errors import UsageError
from featurestore.labels.splits import split_of

if TYPE_CHECKING:
    from featurestore import FeatureStore

# The first 8 hex digits of content hashes are uniform. Those up to a fifth of 2**32 are carved out.
CARVE = f"{(1 << 32) // 5:08x}"
# Which rows validate: ``auto`` is the validation split, else a carve.
VALIDATION = ("auto", "train")
ON_TRAIN = (
    "no rows are set aside: validation figures are of training rows, and say nothing of new images"
)
# Where validation rows come from, in words, by the summary's name for it.
SOURCES = {
    "split": "of the validation split",
    "carved": "carved out of the training rows by content hash",
    "train": "which are the training rows themselves",
}


@dataclass(frozen=True)
class Division:
    """A store's labelled rows divided for training.

    Attributes:
      classes: labels of the training rows, sorted; a row's class is its index here.
      train: selects the training rows, all views.
      validation: selects the validation rows, view 0 only.
      train_counts: int64 (len(classes),) training images of each class; an epoch sees each once.
      validation_counts: int64 (len(classes),) validation images of each class.
      stored_rows: labelled rows of the training side, all views.
      carve: the carve's boundary, or "" if the store has a validation split.
      source: of the validation rows, a key of `SOURCES`.
      notes: one line each on rows that are left out, and on classes with too few rows.
      multi_label: whether a row may be of several classes; labels are counted then, not images.
      rows: (training rows, validation rows).
    """

    classes: tuple[str, ...]
    train: Selection
    validation: Selection
    train_counts: np.ndarray
    validation_counts: np.ndarray
    stored_rows: int
    carve: str = ""
    source: str = "split"
    notes: tuple[str, ...] = ()
    multi_label: bool = False
    rows: tuple[int, int] = (0, 0)


def single_labels(labels: np.ndarray | Sequence[Sequence[str]]) -> list[str | None]:
    """Returns each row's only label, None for a row without one.

    Args:
      labels: n sequences of str.

    Raises:
      UsageError: for a row with several labels.
    """
    for row in labels:
        if len(row) > 1:
            raise UsageError(
                f"one label per row is needed here, and a row has {len(row)}: "
                f"{', '.join(map(repr, row[:3]))}; give each image one, with python -m "
                "featurestore relabel, or train with --multi_label on"
            )
    return [row[0] if len(row) else None for row in labels]


def names_of_split(split: str, found: Iterable[str]) -> tuple[str, ...]:
    """Returns the names among `found` that mean `split`: its own and its aliases.

    Example:
      >>> names_of_split("validation", ["train", "val", "test"])
      ('val',)
    """
    meaning = _meaning(split)
    return tuple(name for name in found if _meaning(name) == meaning)


def _meaning(split: str) -> str:
    return split_of(split) or split


def tally(store: FeatureStore, selection: Selection, single: bool = True) -> Tally:
    """Counts the selected images by label, reading small columns only.

    Args:
      store: to read.
      selection: the rows.
      single: whether a row with several labels is an error; else each label counts.

    Raises:
      UsageError: for a row with several labels, if `single`.
    """
    result, views = Tally(), store.spec.views if selection.views else 1
    columns = ("labels", "view", *(("key",) if views > 1 else ()))
    for batch in selection.batches(store, columns, batch_size=8192):
        if single:
            single_labels(batch["labels"])
        labelled = np.array([len(row) > 0 for row in batch["labels"]], bool)
        images = [tuple(row) for row in batch["labels"][batch["view"] == 0]]
        result.rows += int(np.count_nonzero(labelled))
        result.unlabelled += images.count(())
        result.combinations.update(row for row in images if row)
        result.labels.update(name for row in images for name in set(row))
        if views > 1:
            note_views(result.pending, batch["key"], views)
        hashes = batch["content_hash"][labelled]
        if len(hashes):
            first, last = min(hashes), max(hashes)
            result.first_hash = min(result.first_hash or first, first)
            result.last_hash = max(result.last_hash, last)
    return result


def divide(store: FeatureStore, multi_label: str = "auto", validation: str = "auto") -> Division:
    """Decides which rows of a store train a head and which validate it.

    The rows of the train split train; in a store without any split, all rows do. If there is no
    validation split, a fifth of the training rows is carved out by content hash.

    Args:
      store: to read.
      multi_label: ``on``, ``off``, or ``auto``: on if a training row has several labels.
      validation: ``auto``, or ``train`` to set nothing aside: the training rows validate too.

    Raises:
      UsageError: if there is nothing to train on or to validate with.
    """
    found = store.split_counts()
    if not found:
        raise UsageError(f"the store at {store.url} has no rows; extract images into it first")
    named = [name for name in found if name is not None]
    train_names = _train_names(store, named)
    on_train = validation == "train"
    validation_names = () if on_train else names_of_split("validation", named)
    everything = Selection(train_names, views=True)
    whole = tally(store, everything, single=multi_label == "off")
    if not whole.labels:
        raise UsageError(
            f"none of the {whole.unlabelled} training rows of {store.url} has a label; give labels "
            "with --layout class or --labels FILE at extraction, or python -m featurestore relabel"
        )
    several = multi_label == "on" or whole.several
    classes = tuple(sorted(whole.labels))
    carve = "" if validation_names or on_train else _boundary(store, everything, whole)
    source = "train" if on_train else "carved" if carve else "split"
    train = Selection(train_names, carve, "train", True, frozenset(whole.pending), several)
    judged = Selection(validation_names or train_names, carve, "validation", multi_label=several)
    trained = tally(store, train, not several) if carve else whole
    validated = tally(store, judged, not several)
    rows = trained.rows_of(classes), validated.rows_of(classes)
    if not rows[1]:
        raise UsageError(
            f"the validation split of {store.url} has no row of a class that is trained; "
            "check its labels"
        )
    left_out = found.get(None, 0) if named else 0
    notes = notes_on(classes, trained, validated) + _more_notes(left_out, on_train, several)
    counts = trained.counts(classes), validated.counts(classes)
    return Division(
        classes, train, judged, *counts, trained.rows, carve, source, tuple(notes), several, rows
    )


def _more_notes(left_out: int, on_train: bool, several: bool) -> list[str]:
    notes = [f"{left_out} rows without a split are left out"] if left_out else []
    notes += [ON_TRAIN] if on_train else []
    return [*notes, "heads are multi-label: one sigmoid per class"] if several else notes


def _train_names(store: FeatureStore, named: Sequence[str]) -> tuple[str | None, ...]:
    names = names_of_split("train", named)
    if named and not names:
        raise UsageError(
            f"the store at {store.url} has no training rows; its splits are "
            f"{shorten(sorted(named))}, and one named train is needed"
        )
    return names or (None,)


def _boundary(store: FeatureStore, everything: Selection, whole: Tally) -> str:
    """Returns the carve's boundary, such that both sides have labelled rows, however few."""
    if whole.first_hash == whole.last_hash:
        raise UsageError(
            f"validation needs at least 2 different labelled images, {store.url} has 1; add images"
        )
    if is_below(whole.first_hash, CARVE) and not is_below(whole.last_hash, CARVE):
        return CARVE
    return whole.first_hash


def class_weights(counts: np.ndarray) -> tuple[float, ...]:
    """Returns the weight of each class: inverse to its number of rows, and 1 on average over rows.

    Args:
      counts: int (classes,) training rows of each class.

    Example:
      >>> class_weights(np.array([30, 10]))
      (0.6666666666666666, 2.0)
    """
    share = counts.sum() / (counts > 0).sum()
    return tuple(float(share / count) if count else 0.0 for count in counts)
