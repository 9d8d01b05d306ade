"""Which heads are trained together: waves of bounded memory, and groups that fit the cache."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from classifier.heads.options import MOMENTUM, Trial
from classifier.heads.spec import HeadSpec
from classifier.heads.stacked.groups import Structure
from classifier.heads.stacked.updates import rule_of

# Bytes of the weights, slots and best weights of all heads in training at once. Heads beyond this
# wait for a wave of their own.
STATE_BUDGET = 2 << 30
# Bytes that a single head may need.
HEAD_LIMIT = 4 << 30
# Numbers of a group's kernels: with Adam's slots 6 MB, which the last cache holds.
GROUP_NUMBERS = 1 << 19


def parameter_count(spec: HeadSpec, inputs: int, outputs: int) -> int:
    """Returns how many numbers a head learns.

    Example:
      >>> parameter_count(HeadSpec(), 1280, 10)
      12810
    """
    if not spec.units:
        return (inputs + 1) * outputs
    return (inputs + 1) * spec.units + (spec.units + 1) * outputs


def state_bytes(spec: HeadSpec, optimizer: str, inputs: int, outputs: int) -> int:
    """Returns the bytes of a head in training: weights, best weights and the optimizer's slots.

    Example:
      >>> state_bytes(HeadSpec(), "adam", 1280, 10)
      204960
    """
    return 4 * (2 + rule_of(optimizer, MOMENTUM).slots) * parameter_count(spec, inputs, outputs)


def waves(trials: Mapping[str, Trial], inputs: int, outputs: int, budget: int) -> list[list[str]]:
    """Cuts heads into waves whose state fits the budget, in order, each of at least one head.

    Args:
      trials: by head_id.
      inputs: numbers of a row.
      outputs: logits of a head.
      budget: bytes.
    """
    result: list[list[str]] = []
    held = 0
    for head_id, trial in trials.items():
        size = state_bytes(trial.head, trial.optimizer, inputs, outputs)
        if not result or held + size > budget:
            result.append([])
            held = 0
        result[-1].append(head_id)
        held += size
    return result


def partition(
    trials: Sequence[Trial], inputs: int, outputs: int, lanes: int
) -> list[tuple[int, ...]]:
    """Groups heads of one structure, such that all lanes have equally much to do.

    Args:
      trials: of one wave.
      inputs: numbers of a row.
      outputs: logits of a head.
      lanes: groups that run at once.

    Returns:
      The numbers of each group's heads, the largest group first.
    """
    by_structure: dict[Structure, list[int]] = {}
    for number, trial in enumerate(trials):
        by_structure.setdefault(Structure.of(trial), []).append(number)
    groups: list[tuple[int, tuple[int, ...]]] = []
    for numbers in by_structure.values():
        size = parameter_count(trials[numbers[0]].head, inputs, outputs)
        most = max(1, GROUP_NUMBERS // size)
        # A multiple of the lanes if there are enough heads, so that no lane waits for another.
        count = min(len(numbers), lanes * math.ceil(len(numbers) / (most * lanes)))
        for part in np.array_split(numbers, count):
            groups.append((size * len(part), tuple(part.tolist())))
    return [numbers for _, numbers in sorted(groups, key=lambda pair: (-pair[0], pair[1]))]
