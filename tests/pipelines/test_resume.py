"""Killed at any moment, a run goes on: every key once, the same features, nothing left behind."""

import numpy as np
import pytest
from support.extraction import assert_same_rows
from support.images import write_images
from support.kills import FLAGS, TWO_PROCESSES, start_and_kill
from support.stores import find_orphans

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
    storage = outcome.store.storage
    assert find_orphans(storage, outcome.store.markers()) == set()
    assert storage.list("tmp") == [] and storage.list("plans") == []
    left = {file.name.split("/")[0] for file in storage.list("")}
    assert left == {
        "manifest",
        "markers",
        "model",
        "parts",
        "runs",
        "store.json",
        "summary.json",
    }
