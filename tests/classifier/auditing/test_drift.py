"""Drift: two stores of one spec compared, as a whole, by direction and by class."""

import json

import numpy as np
import pytest
from support.commands import assert_one_line_error, run_command
from support.features import clusters, make_store, spec_of

from classifier.audit import run as audit_command
from classifier.auditing.directions import directions
from classifier.auditing.drift import drift, energy_test
from classifier.auditing.rows import read_rows
from featurestore import BaseSpec

COUNT = 240


def halves(change):
    """Rows of three classes in two stores; `change` moves those of the second."""
    features, labels = clusters(2 * COUNT, 3, channels=16)
    second = features[COUNT:].copy()
    change(second, np.array(labels[COUNT:]))
    return (features[:COUNT], labels[:COUNT]), (second, labels[COUNT:])


def compared(tmp_path, change):
    first, second = halves(change)
    contents = [f"{number:032x}" for number in range(COUNT)]
    store = make_store(tmp_path / "one", *first)
    other = make_store(tmp_path / "other", *second, content_hash=contents)
    with read_rows(store) as rows:
        return drift(rows, other)


def test_two_halves_of_the_same_rows_do_not_differ(tmp_path):
    found = compared(tmp_path, lambda rows, labels: None)
    assert found["test"]["p"] > 0.05 and found["test"]["coefficient"] < 0.02
    assert found["test"]["drawn"] == [COUNT, COUNT] and found["shared_contents"] == 0
    assert all(record["p"] > 0.05 for record in found["classes"])
    assert all(abs(record["shift"]) < 0.3 for record in found["directions"])
    assert all(0.7 < record["spread"] < 1.4 for record in found["directions"])
    assert sum(record["share"] for record in found["directions"]) <= 1


def test_one_moved_class_is_told(tmp_path):
    def change(rows, labels):
        rows[labels == "class 1"] += 1

    found = compared(tmp_path, change)
    assert found["test"]["p"] <= 0.01
    first, *rest = found["classes"]
    assert first["label"] == "class 1" and first["p"] <= 0.01
    assert all(record["p"] > 0.05 for record in rest)


def test_a_change_of_spread_alone_is_told(tmp_path):
    def change(rows, labels):
        rows += np.random.default_rng(3).normal(0, 3, rows.shape)

    found = compared(tmp_path, change)
    assert found["test"]["p"] == 0.001 and found["beyond"] > 0.1
    assert max(record["spread"] for record in found["directions"]) > 1.5


def test_classes_of_one_store_only_and_small_ones_are_named(tmp_path):
    features, labels = clusters(90, 3)
    store = make_store(tmp_path / "one", features, labels)
    renamed = ["new" if label == "class 2" else label for label in labels]
    few = [label for number, label in enumerate(renamed) if label != "class 1" or number < 20]
    rows = [number for number, label in enumerate(renamed) if label != "class 1" or number < 20]
    with read_rows(store) as own:
        found = drift(own, make_store(tmp_path / "other", features[rows], few))
    assert (found["only_here"], found["only_there"]) == (["class 2"], ["new"])
    assert [record["label"] for record in found["classes"]] == ["class 0"]
    assert found["classes_with_few_rows"] == 1 and found["shared_contents"] == len(rows)


def test_the_energy_distance_is_that_of_its_definition():
    random = np.random.default_rng(0)
    one, other = random.normal(size=(5, 3)), random.normal(size=(7, 3)) + 1
    mean = lambda a, b: np.linalg.norm(a[:, None] - b[None], axis=2).mean()  # noqa: E731
    between = 2 * mean(one, other)
    expected = (between - mean(one, one) - mean(other, other)) / between
    assert energy_test(one, other, random)[0] == pytest.approx(expected)
    assert energy_test(one, one, random) == (pytest.approx(0), 1)


def test_p_values_of_equal_samples_are_uniform():
    random = np.random.default_rng(0)
    values = [energy_test(*random.normal(size=(2, 20, 4)), random)[1] for _ in range(100)]
    assert 0.01 <= np.mean(np.array(values) <= 0.1) <= 0.2


def test_directions_are_principal_components(tmp_path):
    features, labels = clusters(80, 4, channels=6)
    with read_rows(make_store(tmp_path / "store", features, labels)) as rows:
        found, scaled = directions(rows, 9), rows.scaled(slice(None))
        places = found.places(rows)
    _, singular, axes = np.linalg.svd(scaled - scaled.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs((found.axes * axes).sum(axis=1)), 1, atol=1e-4)
    np.testing.assert_allclose(found.share, singular**2 / (singular**2).sum(), atol=1e-5)
    np.testing.assert_allclose(places.std(axis=0), singular / np.sqrt(80), rtol=1e-3)


def test_another_base_is_refused_in_one_line(tmp_path):
    features, labels = clusters(30, 2)
    make_store(tmp_path / "one", features, labels)
    base = BaseSpec("Tiny", "random", "cd" * 16, "top", "avg", "tf")
    make_store(tmp_path / "other", features, labels, spec=spec_of((12,), base=base))
    flags = ["--store", "one", "--against", "other"]
    done = run_command("classifier.audit", *flags, cwd=tmp_path)
    assert_one_line_error(done, 2, "--against", "weights: ", "cdcdcd")


def test_the_command_tells_the_drift_in_its_page_and_summary(tmp_path, capsys):
    def change(rows, labels):
        rows[labels == "class 1"] += 2

    for name, rows in zip(("one", "other"), halves(change), strict=True):
        make_store(tmp_path / name, *rows)
    output = tmp_path / "out"
    flags = ["--store", str(tmp_path / "one"), "--against", str(tmp_path / "other")]
    assert audit_command([*flags, "--output", str(output), "--compare", "0"]) == 0
    assert "drift: " in capsys.readouterr().out
    assert json.loads((output / "audit.json").read_text())["drift"]["classes"]
    page = (output / "audit.html").read_text()
    assert "energy distance" in page and "class 1" in page
