"""Ledgers and statistics add up the same in any order and grouping, as workers' results must."""

import dataclasses
from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier.features.order import Rows
from classifier.features.sample import ContentSample
from classifier.heads.head import Moments
from classifier.heads.ridge.passes import PenaltyErrors, ScaleLosses
from classifier.heads.ridge.settings import RidgeSettings
from classifier.heads.ridge.solution import FoldStatistics, solve
from classifier.heads.ridge.statistics import Statistics
from classifier.judgement.evaluation import Scores
from featurestore.commit import Marker
from featurestore.errors import RunFailed
from featurestore.ledger import Ledger, superseded_ledger
from featurestore.reading.visibility import Visibility

fast = settings(max_examples=60, deadline=None, derandomize=True)

FIELDS = [field.name for field in dataclasses.fields(Ledger)]
counts = st.integers(0, 10**12)
ledgers = st.builds(Ledger, **dict.fromkeys(FIELDS, counts))
balanced = ledgers.map(
    lambda ledger: dataclasses.replace(
        ledger, images_in=ledger.rows + ledger.quarantined + ledger.dead_images
    )
)


@fast
@given(ledgers, ledgers, ledgers)
def test_ledgers_add_up_in_any_order_and_grouping(a, b, c):
    assert (a + b) + c == a + (b + c) == Ledger.total([c, a, b])
    assert a + b == b + a
    assert a + Ledger() == a == Ledger.total([a])
    assert Ledger.total([]) == Ledger()
    for name in FIELDS:
        assert getattr(a + b, name) == getattr(a, name) + getattr(b, name)


@fast
@given(st.lists(balanced, max_size=6), st.integers(1, 10**9))
def test_a_sum_balances_where_its_parts_do_and_one_image_more_is_noticed(parts, more):
    total = Ledger.total(parts)
    assert total.check("here") is total
    for name in ("images_in", "rows", "quarantined", "dead_images"):
        off = dataclasses.replace(total, **{name: getattr(total, name) + more})
        with pytest.raises(RunFailed, match="^here: the ledger is off"):
            off.check("here")


@fast
@given(
    st.dictionaries(st.sampled_from(["row", "quarantined", "unreadable"]), counts),
    st.dictionaries(st.sampled_from(["row", "quarantined"]), counts),
)
def test_what_is_superseded_balances_and_adds_up(first, second):
    a, b = superseded_ledger(first), superseded_ledger(second)
    assert a.check("here") == a
    both = {kind: first.get(kind, 0) + second.get(kind, 0) for kind in ("row", "quarantined")}
    assert a + b == superseded_ledger(both)


KINDS = st.sampled_from(["row", "quarantined", "pruned"])
runs = st.lists(st.dictionaries(st.sampled_from("abcdefgh"), KINDS, max_size=8), max_size=6)


@fast
@given(runs, st.randoms())
def test_what_runs_wrote_without_what_they_superseded_is_what_a_reader_sees(history, random):
    # Each run gives every key it touches a new row, quarantines it, or prunes it.
    held: dict[str, str] = {}
    markers, written = [], []
    for number, run in enumerate(history):
        gone = [held[key] for key in run if key in held]
        kinds = list(run.values())
        rows, bad = kinds.count("row"), kinds.count("quarantined")
        run_id = f"{number:04d}"
        markers.append(
            Marker(
                chunk_id=run_id,
                run_id=run_id,
                first_key=min(run, default=""),
                ledger=Ledger(rows + bad, rows, bad),
                supersedes=tuple(key for key in run if key in held),
                superseded=superseded_ledger(
                    {kind: gone.count(kind) for kind in ("row", "quarantined")}
                ),
            )
        )
        written += [(key, kind, run_id) for key, kind in run.items() if kind != "pruned"]
        held = {**held, **run}
        held = {key: kind for key, kind in held.items() if kind != "pruned"}
    random.shuffle(markers)
    added = Ledger.total(marker.ledger for marker in markers).check("written")
    taken = Ledger.total(marker.superseded for marker in markers).check("superseded")
    visible = Visibility.of(markers)
    seen = [kind for key, kind, run_id in written if visible.shows([key], run_id)[0]]
    assert sorted(seen) == sorted(held.values())
    assert added.rows - taken.rows == seen.count("row")
    assert added.quarantined - taken.quarantined == seen.count("quarantined")
    assert Marker.from_json(Marker.to_json(markers[0]), "here") == markers[0] if markers else True


@st.composite
def blocks(draw) -> tuple[list[slice], np.random.Generator]:
    """Cuts of 60 rows into blocks, empty ones among them, and what draws the rows."""
    cuts = sorted(draw(st.lists(st.integers(0, 60), max_size=6)))
    edges = [0, *cuts, 60]
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    return [slice(*pair) for pair in zip(edges, edges[1:], strict=False)], rng


offsets = st.sampled_from([0.0, 1.0, -1e3, 1e6])


def assert_same(got: Statistics, expected: Statistics, scale: float = 1.0) -> None:
    for field in dataclasses.fields(Statistics):
        pair = getattr(got, field.name), getattr(expected, field.name)
        np.testing.assert_allclose(*pair, rtol=1e-7, atol=1e-7 * scale, err_msg=field.name)


@fast
@given(blocks(), offsets, st.booleans())
def test_sums_of_a_ridge_fit_merge_and_are_taken_back(cut, offset, weighted):
    slices, rng = cut
    features, targets = rng.normal(size=(60, 4)) + offset, rng.normal(size=(60, 2))
    weights = rng.uniform(0, 3, 60) if weighted else np.ones(60)
    parts = [
        Statistics.of(features[own], targets[own], weights[own] if weighted else None)
        for own in slices
    ]
    whole = Statistics.of(features, targets, weights if weighted else None)
    assert_same(reduce(add, parts), whole, 1 + abs(offset))
    rng.shuffle(parts)
    assert_same(reduce(add, parts, Statistics.empty(4, 2)), whole, 1 + abs(offset))
    assert_same(whole - parts[0] + parts[0], whole, 1 + abs(offset))
    centred = features - np.average(features, axis=0, weights=weights)
    np.testing.assert_allclose(
        whole.scatter, (centred * weights[:, None]).T @ centred, rtol=1e-7, atol=1e-6
    )


@fast
@given(blocks(), offsets, st.sampled_from([np.float16, np.float32, np.float64]))
def test_moments_are_those_of_all_rows_however_they_come(cut, offset, dtype):
    slices, rng = cut
    features = (rng.normal(size=(60, 2, 3)) + min(offset, 1e3)).astype(dtype)
    moments = Moments(3)
    for own in slices:
        moments.update(features[own])
    standard = moments.standard()
    flat = features.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(standard.mean, flat.mean(axis=0), rtol=1e-6, atol=1e-6)
    floor = 0.1 * np.sqrt(flat.var(axis=0).mean())
    expected = np.maximum(flat.std(axis=0), floor)
    np.testing.assert_allclose(standard.deviation, expected, rtol=1e-5, atol=1e-9)


def make_rows(rng: np.random.Generator, classes: int) -> Rows:
    labels = np.arange(60) % classes
    features = (rng.normal(size=(60, 4)) + labels[:, None]).astype(np.float32)
    content = rng.integers(0, 1 << 32, 60, np.uint32)
    return Rows(features, labels.astype(np.int64), content)


@settings(fast, max_examples=25)
@given(blocks(), st.sampled_from([2, 3]), st.sampled_from([0, 2, 5]), st.booleans())
def test_passes_of_a_ridge_fit_merge_as_if_one_worker_had_read_all(cut, classes, folds, weighted):
    slices, rng = cut
    rows = make_rows(rng, classes)
    weights = tuple(rng.uniform(0.5, 2, classes)) if weighted else None
    settings_ = RidgeSettings(4, 4, classes, (1e-2, 1.0), folds, weights)

    def summed(kind, own, *given_):
        part = kind(settings_)
        part.update(rows[own], *given_)
        return part

    def merged(kind, *given_):
        parts = [summed(kind, own, *given_) for own in slices]
        return sum(parts, kind(settings_)), summed(kind, slice(None), *given_)

    tiles = {}
    for own in slices:
        for key, tile in summed(FoldStatistics, own).tiles():
            tiles[key] = tiles[key] + tile if key in tiles else tile
    total, whole = (
        FoldStatistics.joined(settings_, tiles.items()),
        summed(FoldStatistics, slice(None)),
    )
    for a, b in zip(total.folds, whole.folds, strict=True):
        assert_same(a, b)
    solved = solve(whole)
    for side in ("train", "validation"):
        total, whole = merged(PenaltyErrors, side, solved)
        assert total.rows == whole.rows
        for name in total.hits:
            np.testing.assert_array_equal(total.hits[name], whole.hits[name])
            np.testing.assert_allclose(total.errors[name], whole.errors[name], rtol=1e-6)
        total, whole = merged(ScaleLosses, side, solved.full.only(0))
        assert total.rows == whole.rows
        for name in total.hits:
            np.testing.assert_array_equal(total.hits[name], whole.hits[name])
            np.testing.assert_allclose(total.errors[name], whole.errors[name], rtol=1e-6)


@fast
@given(blocks(), st.sampled_from([2, 3, 7]))
def test_an_evaluation_is_the_same_in_any_batches_and_order(cut, classes):
    slices, rng = cut
    logits = rng.normal(size=(60, 1 if classes == 2 else classes)) * 5
    labels = rng.integers(0, classes, 60)
    names = tuple("abcdefg"[:classes])
    whole, parts = Scores(names), Scores(names)
    whole.update(logits, labels)
    for own in rng.permutation(np.array(slices, object)):
        parts.update(logits[own], labels[own])
    np.testing.assert_array_equal(parts.confusion, whole.confusion)
    assert parts.loss_sum == pytest.approx(whole.loss_sum) and parts.top_hits == whole.top_hits
    assert parts.confusion.sum() == 60


@fast
@given(blocks(), st.integers(8, 700))
def test_a_sample_by_content_does_not_depend_on_batches_or_order(cut, budget):
    slices, rng = cut
    content = rng.integers(0, 1 << 32, 60, np.uint32)
    values = np.arange(60.0)

    def kept(order) -> set[float]:
        sample = ContentSample(budget)
        for rows in order:
            sample.add(content[rows], values[rows])
        (column,) = sample.columns()
        return set(column.tolist())

    expected = kept([slice(0, 60)])
    assert kept(slices) == expected
    assert kept(np.array_split(rng.permutation(60), 7)) == expected
    assert len(expected) * 8 <= budget
