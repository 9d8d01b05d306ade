"""The standings of a training's taps: the accuracy of the best head of each, and its cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from classifier.features.division import names_of_split
from classifier.judgement.judge import VALIDATION, JudgedHead, compare, judge
from classifier.judgement.ranking import Contender, compared, ranked
from classifier.reporting.frame import TROUBLE, trouble_line
from classifier.reporting.tapspage import COST
from classifier.runs.run import Run
from featurestore import FeatureStore

Record = dict[str, Any]
TEST = "test"


def compare_taps(
    stores: Mapping[str, FeatureStore],
    runs: Mapping[str, Run],
    best: Sequence[Record],
    tell: Callable[[str], None],
) -> Record:
    """Judges the best head of each tap on the validation rows, and on the test rows if any.

    Args:
      stores: name of a tap -> the store as one of this tap.
      runs: name of a tap -> its run.
      best: the row of each tap's best head in the leaderboard, best first, with the ``folder`` of
        its run; at least two.
      tell: takes lines for the user.

    Returns:
      ``comparison``: of the first two of `best`, as `compare` gives it, with the second ``tap``.
      ``standings``: facts of each tap by validation accuracy, as `ranked` gives them; its ``tap``,
      ``folder``, ``head_id``, ``feature_shape`` and ``bytes_per_row``; and ``test``, None or the
      interval's record, with ``test_difference`` and ``test_p_value`` of all but the first. Both
      are None where rows may have several labels.
    """
    if any(run.multi_label for run in runs.values()):
        tell("note: taps are compared for one label per row only, and these have several")
        return {"comparison": None, "standings": None}

    def judged(row: Record, split: str) -> JudgedHead:
        tap = row["tap"]
        return judge(runs[tap], row["head_id"], stores[tap], split)

    found = [judged(row, VALIDATION) for row in best]
    contenders = [
        _contender(one, row, stores[row["tap"]]) for one, row in zip(found, best, strict=True)
    ]
    standings = ranked(contenders, COST)
    for row in standings:
        row["test"] = None
    if names_of_split(TEST, [name for name in next(iter(stores.values())).split_counts() if name]):
        try:
            _add_test(standings, [judged(row, TEST) for row in standings])
        except TROUBLE as error:
            tell(f"note: the taps were not judged on the test rows: {trouble_line(error)}")
    comparison = {"tap": best[1]["tap"], **compare(*found[:2])}
    return {"comparison": comparison, "standings": standings}


def _contender(judged: JudgedHead, row: Record, store: FeatureStore) -> Contender:
    spec, tap = store.spec, row["tap"]
    facts = {name: row[name] for name in ("tap", "folder", "head_id")}
    facts |= {"feature_shape": list(spec.feature_shape), COST: spec.stored_bytes}
    return Contender.of(tap, judged, **facts)


def _add_test(standings: Sequence[Record], judged: Sequence[JudgedHead]) -> None:
    first, *rest = (
        Contender.of(row["tap"], one) for row, one in zip(standings, judged, strict=True)
    )
    for row, one in zip(standings, (first, *rest), strict=True):
        row["test"] = one.facts["accuracy"]
    for row, found in zip(standings[1:], compared(first, rest), strict=True):
        row |= {"test_difference": found["difference"], "test_p_value": found["p_value"]}
