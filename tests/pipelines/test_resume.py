"""Killed at any moment, a run goes on: every key once, the same features, nothing left behind."""

import numpy as np
import pytest
from support.dying import Step
from support.extraction import assert_same_rows, rows_of
from support.images import write_images
from support.kills import (
    FLAGS,
    TWO_PROCESSES,
    assert_nothing_left,
    markers_in,
    run_until,
    start_and_kill,
)

from featurestore import open_store
from pipelines import extract as extract_command
from pipelines.driver import extract

FLAGS += ["--precision", "float32"]


def run_to_the_end(*arguments):
    options, _ = extract_command.parse_options([*map(str, arguments), *FLAGS])
    return extract(options, lambda line: None)


TAPS = ("block_13_expand_relu:max", "out_relu:avg")


@pytest.mark.parametrize(
    ("kills", "taps"),
    [
        (2, ()),
        pytest.param(10, (), marks=pytest.mark.slow),
        pytest.param(3, TAPS, marks=pytest.mark.slow),
    ],
    ids=["twice", "ten-times", "several-taps"],
)
def test_killed_at_random_moments_then_run_to_the_end(tmp_path, kills, taps):
    write_images(tmp_path / "photos", 800)
    layers = (part for tap in taps for part in ("--layer", tap))
    arguments = (*layers, "--input", tmp_path / "photos", "--output")
    undisturbed = run_to_the_end(*arguments, tmp_path / "undisturbed").store
    store = tmp_path / "store"
    random = np.random.default_rng(0)
    for number in range(kills):
        whole_group = number % 2 == 0
        start_and_kill(
            (*arguments, store, *(() if number % 4 < 2 else TWO_PROCESSES)),
            store,
            commits=int(random.integers(0, 5)),
            delay=float(random.uniform(0, 0.2 if number % 3 else 6.0)),
            whole_group=whole_group,
        )
    outcome = run_to_the_end(*arguments, store)
    assert outcome.exit_code == 0
    for tap in taps or ("",):
        one, other = undisturbed.tap(tap), outcome.store.tap(tap)
        assert len(other.load(["key"])["key"]) == 800
        assert_same_rows(one, other)
    assert_nothing_left(outcome.store)


# In the order of a run. Each run goes on from where the one before was killed.
STEPS = (
    Step("after", 1, "write", "model/"),
    Step("after", 1, "create", "store.json"),
    Step("after", 2, "write", "plans/"),
    Step("after", 1, "write_table", "part.parquet"),
    Step("after", 1, "publish", "parts/"),
    Step("after", 2, "create", "markers/"),
    Step("after", 3, "publish", "parts/"),
    Step("after", 1, "publish", "quarantine/"),
    Step("before", 1, "write", "manifest/"),
    Step("before", 1, "write", "summary.json"),
)


@pytest.mark.slow
def test_killed_at_ten_steps_a_store_of_taps_has_one_commit_of_all_taps_for_each_chunk(tmp_path):
    images = write_images(tmp_path / "photos", 160)
    for image in images[::16] + images[1::16]:
        # Every chunk of 20 gets one, so that every chunk has a quarantine file.
        image.with_name(f"{image.stem}-cut.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    layers = (part for tap in TAPS for part in ("--layer", tap))
    arguments = (*layers, "--input", tmp_path / "photos", "--max_bad_fraction", "0.2", "--output")
    undisturbed = run_to_the_end(*arguments, tmp_path / "undisturbed").store
    store, commits = tmp_path / "store", []
    for step in STEPS:
        run_until(step, "pipelines.extract", *arguments, store, *FLAGS)
        commits.append(markers_in(store))
        if (store / "store.json").exists():
            one, other = (rows_of(open_store(store, tap=tap)) for tap in TAPS)
            assert one.keys() == other.keys(), f"{step.typed}: a key has one tap only"
    assert commits == [0, 0, 0, 0, 0, 2, 4, 4, 9, 9]
    outcome = run_to_the_end(*arguments, store)
    assert outcome.exit_code == 0
    markers = outcome.store.markers()
    assert markers.keys() == undisturbed.markers().keys()
    assert markers_in(store) == len(markers) == commits[-1]
    assert len(list((store / "parts").iterdir())) == len(markers)
    for tap in TAPS:
        one, other = undisturbed.tap(tap), outcome.store.tap(tap)
        assert len(other.load(["key"])["key"]) == 160
        assert_same_rows(one, other)
    assert_nothing_left(outcome.store)
