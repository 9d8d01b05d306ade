"""A store of distributed workers leaves its numerics open until the first worker decides."""

import dataclasses
import json

import pytest
from support.features import clusters, make_store, spec_of

from featurestore import open_store
from featurestore.checking.verify import verify_storage
from featurestore.decision import Decision, decide, read_decision
from featurestore.errors import CorruptStore
from featurestore.numerics import UNDECIDED, Numerics

ONE = Decision(Numerics("openvino", "bfloat16", "decoder 1"), {"reason": "the fastest"})
OTHER = Decision(Numerics("tensorflow", "float32", "decoder 1"))


@pytest.fixture
def store(tmp_path):
    features, labels = clusters(20, 2, channels=4)
    spec = dataclasses.replace(spec_of((4,)), numerics=UNDECIDED)
    return make_store(tmp_path / "s", features, labels, spec=spec)


def kinds(store) -> set[str]:
    return {finding.kind for finding in verify_storage(store.storage)}


def test_the_first_decision_counts(store):
    assert not store.spec.numerics.is_decided and read_decision(store.storage) is None
    assert decide(store.storage, ONE) == ONE
    assert decide(store.storage, OTHER) == ONE
    opened = open_store(store.url)
    assert opened.spec.numerics == ONE.numerics
    assert opened.spec.identity_hash == store.spec.identity_hash


def test_a_decided_store_needs_no_file(tmp_path):
    features, labels = clusters(20, 2, channels=4)
    store = make_store(tmp_path / "s", features, labels)
    decide(store.storage, ONE)
    assert open_store(store.url).spec.numerics == store.spec.numerics


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-20],
        lambda text: text.replace("bfloat16", "float32"),
        lambda text: "[]",
        lambda text: json.dumps({**json.loads(text), "numerics": {"engine": "x"}}),
    ],
    ids=["cut", "edited", "no record", "a field less"],
)
def test_a_damaged_decision_is_one_line(store, damage):
    decide(store.storage, ONE)
    store.storage.write("numerics.json", damage(ONE.to_json()))
    with pytest.raises(CorruptStore, match=r"numerics\.json: ") as error:
        open_store(store.url)
    assert "\n" not in str(error.value) and "restore the file" in str(error.value)
    assert "damaged_spec" in kinds(store)


def test_a_lost_decision_is_found(store):
    decide(store.storage, ONE)
    before = kinds(store)
    store.storage.remove("numerics.json")
    assert kinds(store) - before == {"missing_spec"}
