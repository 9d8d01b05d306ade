"""JSON objects that are kept as text stay the same objects when their texts are compressed."""

import json
import pickle

import pytest

from featurestore.io.lazy import LazyObject, pack

RECORDS = [{"worker": f"wörker-{n}", "lane_seconds": {"decode": n / 3}, "n": n} for n in range(9)]


@pytest.mark.parametrize("size", [1, 2, 9])
def test_packed_objects_are_what_they_were(size):
    objects = [LazyObject(json.dumps(record)) for record in RECORDS]
    for start in range(0, len(objects), size):
        pack(objects[start : start + size])
    assert [dict(each) for each in objects] == RECORDS
    assert [each["n"] for each in reversed(objects)] == list(range(9))[::-1]
    assert pickle.loads(pickle.dumps(objects)) == objects


def test_objects_are_equal_by_what_they_hold():
    one, other = LazyObject('{"a": 1, "b": 2}'), LazyObject('{"b":2,"a":1}')
    pack([one])
    assert one == LazyObject('{"a": 1, "b": 2}') and one == other and one == {"a": 1, "b": 2}
    assert one != LazyObject('{"a": 1}') and one != {"a": 2, "b": 2} and one != 3


def test_nothing_is_packed_into_nothing():
    pack([])
