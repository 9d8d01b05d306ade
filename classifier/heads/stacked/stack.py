"""A stack: trains all heads of a wave, with its groups side by side in threads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from classifier.heads.options import Trial
from classifier.heads.stacked.groups import Group, make_group
from classifier.heads.stacked.objective import Objective
from classifier.heads.stacked.partition import partition
from classifier.heads.stacked.progress import Progress
from classifier.heads.stacked.stream import Batch, ahead
from featurestore.io.cores import cores


class Stack:
    """Heads that are trained over one stream.

    Attributes:
      heads: the progress of each.
      groups: of the heads in training, the largest first.
      done: number of a head whose training has ended -> its best weights.
      seconds: spent on epochs, including those before a resume.
    """

    def __init__(
        self, trials: Sequence[Trial], inputs: int, objective: Objective, patience: int
    ) -> None:
        """Takes the heads; `start` or `restore` gives them weights.

        Args:
          trials: of the heads.
          inputs: numbers of a row.
          objective: the loss of all heads of the run.
          patience: epochs; 0 for none.
        """
        self.heads = [Progress(patience) for _ in trials]
        self.done: dict[int, list[np.ndarray]] = {}
        self.groups: list[Group] = []
        self.seconds = 0.0
        self._trials, self._inputs, self._objective = list(trials), inputs, objective

    def start(self) -> None:
        """Gives every head its initial weights."""
        sizes = self._inputs, self._objective.outputs
        self.groups = [self._group(members) for members in partition(self._trials, *sizes, cores())]

    def _group(self, members: Sequence[int]) -> Group:
        trials = [self._trials[number] for number in members]
        sizes = self._inputs, self._objective.outputs
        weights = [initial_weights(trial, *sizes) for trial in trials]
        return make_group(members, trials, weights, self._objective)

    def state(self) -> tuple[dict[str, Any], list[list[np.ndarray]]]:
        """Returns the state between two epochs, from which training can resume.

        Returns:
          (a record fit for JSON, arrays of each group and then of each head that ended).
        """
        record = {
            "groups": [{"members": group.members, "steps": group.steps} for group in self.groups],
            "heads": [asdict(head) for head in self.heads],
            "done": sorted(self.done),
            "seconds": self.seconds,
        }
        arrays = [
            [each for part in group.parameters for each in part.arrays()] for group in self.groups
        ]
        return record, arrays + [self.done[number] for number in sorted(self.done)]

    def restore(self, record: Mapping[str, Any], arrays: Sequence[list[np.ndarray]]) -> None:
        """Sets the state that `state` returned.

        Raises:
          KeyError, ValueError: if something is missing.
        """
        groups = [self._group(kept["members"]) for kept in record["groups"]]
        held, ended = arrays[: len(groups)], arrays[len(groups) :]
        self.done = dict(zip(record["done"], ended, strict=True))
        for group, kept, values in zip(groups, record["groups"], held, strict=True):
            group.steps = kept["steps"]
            size = len(values) // len(group.parameters)
            for number, part in enumerate(group.parameters):
                part.restore(values[number * size : (number + 1) * size])
        self.heads = [Progress(**head) for head in record["heads"]]
        self.seconds = record["seconds"]
        self.groups = groups

    @property
    def ended(self) -> bool:
        """Whether the training of all heads has ended."""
        return not self.groups

    def train_epoch(
        self, train: Iterator[Batch], validation: Iterator[Batch], lanes: Executor
    ) -> None:
        """Trains all heads for an epoch, then validates them.

        Args:
          train: batches of the training rows.
          validation: batches of the validation rows.
          lanes: runs the groups.
        """
        trained = np.zeros((2, len(self.heads)))
        validated = np.zeros((2, len(self.heads)))
        rows = 0
        for block in ahead(train):
            rows += sum(len(labels) for _, labels in block)
            self._run(lanes, partial(Group.train, batches=block))
        self._collect(trained, rows)
        rows = 0
        for block in ahead(validation):
            for features, labels in block:
                rows += len(labels)
                self._run(lanes, partial(Group.validate, features=features, labels=labels))
        self._collect(validated, rows)
        self._judge(np.concatenate([trained, validated]))

    def _run(self, lanes: Executor, work: Callable[[Group], None]) -> None:
        # The list raises here what a group raised.
        list(lanes.map(work, self.groups))

    def _collect(self, figures: np.ndarray, rows: int) -> None:
        for group in self.groups:
            figures[:, group.members] = group.take_sums() / rows

    def _judge(self, figures: np.ndarray) -> None:
        """Adds an epoch's figures, float64 (metrics, heads), and takes out heads that ended."""
        for group in self.groups:
            better = np.zeros(len(group.members), bool)
            for position, number in enumerate(group.members):
                if not self.heads[number].ended:
                    better[position] = self.heads[number].add(figures[:, number].tolist())
            group.remember(better)
        self._compact()

    def _compact(self) -> None:
        """Takes ended heads out of groups in which at most half of the heads continue."""
        for group in self.groups:
            on = np.array([not self.heads[number].ended for number in group.members])
            if 2 * on.sum() > len(on):
                continue
            for position in np.flatnonzero(~on).tolist():
                self.done[group.members[position]] = group.weights(position)
            if on.any():
                group.keep(np.flatnonzero(on))
        self.groups = [group for group in self.groups if not set(group.members) <= set(self.done)]

    def best_weights(self) -> list[list[np.ndarray]]:
        """Returns each head's best weights, as a Keras head lists them."""
        found = dict(self.done)
        for group in self.groups:
            for position, number in enumerate(group.members):
                found[number] = group.weights(position)
        return [found[number] for number in range(len(self.heads))]

    @contextmanager
    def lanes(self) -> Iterator[Executor]:
        """Yields threads for the groups; they share the cores evenly."""
        # Imported here, so that reading the options stays quick.
        from threadpoolctl import threadpool_limits

        most = max(1, min(cores(), len(self.groups)))
        with threadpool_limits(cores() // most, "blas"), ThreadPoolExecutor(most) as pool:
            yield pool


def initial_weights(trial: Trial, inputs: int, outputs: int) -> list[np.ndarray]:
    """Returns a head's weights before its first step: zeros, and Glorot's uniform numbers.

    The seed decides, and not the position of the head in a run. Source: Glorot and Bengio,
    "Understanding the difficulty of training deep feedforward neural networks" (2010).
    """
    units = trial.head.units
    sizes = [(inputs, units), (units, outputs)] if units else [(inputs, outputs)]
    arrays = []
    random = np.random.default_rng(trial.seed)
    for rows, columns in sizes:
        limit = math.sqrt(6 / (rows + columns))
        kernel = (2 * limit) * random.random((rows, columns), np.float32) - limit
        arrays += [kernel, np.zeros(columns, np.float32)]
    return arrays
