"""The model card of a run: what it says, what it keeps, and that names cannot break it."""

import numpy as np
import pytest
from support.features import clusters, make_store
from support.training import SPLITS, train_into

from classifier.evaluate import run as evaluate_command
from classifier.report import run as report_command
from classifier.reporting.card import OWN


@pytest.fixture
def store(tmp_path):
    features, labels = clusters(120, 3)
    labels = [label.replace("class 1", "a | b\n# c") for label in labels]
    return make_store(tmp_path / "store", features, labels, SPLITS)


def card_of(run) -> str:
    return run.storage.read("card.md").decode()


def test_a_training_writes_its_card(tmp_path, store):
    run = train_into(tmp_path / "run", store)
    card = card_of(run)
    for words in (
        "# Model card: linear",
        "`uint8 (n, 8, 8, 3)`",
        "`float32 (n, 3)` probabilities, which add up to 1",
        f"| Feature store | {store.url} |",
        f"| Identity | {store.spec.identity_hash} |",
        "| Fingerprint of its rows | ",
        "| Rows by split | test 20, train 80, validation 20 |",
        "| Training rows | 80 |",
        "a \\| b # c, class 0, class 2.",
        "| validation | 20 | ",
        "| Licence of the base's weights | *to fill in* |",
    ):
        assert words in card, words
    assert 'href="card.md"' in run.storage.read("report.html").decode()


def test_a_later_evaluation_is_added_and_the_own_section_kept(tmp_path, store):
    run = train_into(tmp_path / "run", store)
    before, _, own = card_of(run).partition(OWN)
    assert "| test | 20 | " not in before
    own = own.replace("| Licence of this model | *to fill in* |", "| Licence | é CC0 |")
    run.storage.write("card.md", before + OWN + own)
    evaluate_command(["--run", run.url, "--store", store.url, "--split", "test"])
    after = card_of(run)
    assert "| test | 20 | " in after and "| Licence | é CC0 |" in after
    report_command(["--run", run.url])
    assert card_of(run) == after
    again = train_into(tmp_path / "run", store, "--overwrite", "--seed", "3")
    assert "| Licence | é CC0 |" in card_of(again) and "| test | 20 | " not in card_of(again)


def test_a_multi_label_head_and_many_classes(tmp_path):
    rng = np.random.default_rng(0)
    labels = [[f"c{number % 60:02d}", f"c{(number * 7) % 60:02d}"] for number in range(120)]
    features = rng.normal(size=(120, 6)).astype(np.float32)
    run = train_into(tmp_path / "run", make_store(tmp_path / "store", features, labels, SPLITS))
    card = card_of(run)
    assert "probabilities, independent of each other" in card
    assert f"and {len(run.classes) - 40} more." in card
