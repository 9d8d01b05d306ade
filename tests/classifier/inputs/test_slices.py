"""Slices of one TFRecord set: every record once, whatever the patterns, the order and the runs."""

import itertools
import json

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.extraction import SMALL, run
from support.images import png_bytes

from classifier.inputs import Ignored, InputOptions, ShardRef, iter_shard, list_inputs
from classifier.inputs.formats.examples import encode_example
from classifier.inputs.formats.tfds import Slice, split_request, take
from classifier.inputs.formats.tfrecord import frame, read_records
from classifier.inputs.records import (
    END,
    WHOLE,
    file_etag,
    holds,
    records_of,
    union,
    with_records,
    without,
)
from featurestore.errors import UsageError
from featurestore.io.steady import SteadyFile
from pipelines.planning.inventory import Inventory

SHARDS = (7, 5, 8)
COUNT = sum(SHARDS)


def write_set(folder, names=()):
    """A set of three shards; image i has the gray value 10 i, and a file name if one is given."""
    folder.mkdir()
    numbers = itertools.count()
    for shard, count in enumerate(SHARDS):
        data = b""
        for number in itertools.islice(numbers, count):
            image = png_bytes(np.full((40, 40, 3), 10 * number, np.uint8))
            features = {"image": [image], "label": [number % 2]}
            if names:
                features["file_name"] = [names[number % len(names)].encode()]
            data += frame(encode_example(features))
        (folder / f"d-train.tfrecord-{shard:05d}-of-{len(SHARDS):05d}").write_bytes(data)
    info = {"splits": [{"name": "train", "shardLengths": [str(count) for count in SHARDS]}]}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


@pytest.fixture
def dataset(tmp_path):
    return write_set(tmp_path / "d")


def stored_keys(outcome):
    keys = list(outcome.store.load(["key"])["key"])
    assert len(keys) == len(set(keys)), "a row each"
    whole = outcome.record["store_ledger"]
    assert whole["rows"] == whole["images_in"] == len(keys)
    return sorted(keys)


def listed_keys(*uris):
    shards = list_inputs([str(uri) for uri in uris], InputOptions())
    return sorted({ref.key for shard in shards for ref, _ in iter_shard(shard, None, Ignored())})


def extract(dataset, *slices, more=()):
    return run(
        "--input", *(f"{dataset}{text}" for text in slices), "--output", dataset.parent / "s",
        *SMALL, *more,
    )  # fmt: skip


@pytest.mark.parametrize(
    "slices, expected",
    [
        (("#train[:40%]", "#train[40%:50%]", "#train[50%:60%]"), 12),
        (("#train[:8]", "#train[4:16]", "#train[2:3]"), 16),
        (("#train[:8]", "#train[:8]"), 8),
        (("#train[1:3]", "#train[5:6]", "#train[2:4]"), 4),
        (("#train[-3:]", "", "#train[:2]"), COUNT),
    ],
)
def test_slices_in_one_run_store_each_image_once(dataset, slices, expected):
    outcome = extract(dataset, *slices)
    assert len(stored_keys(outcome)) == expected
    assert stored_keys(outcome) == listed_keys(*(f"{dataset}{text}" for text in slices))
    assert outcome.record["already_committed"] == 0
    again = extract(dataset, *slices)
    assert again.record["chunks"] == 0 and len(stored_keys(again)) == expected


def test_a_repeated_slice_is_said_to_be_listed_twice(dataset, capsys):
    outcome = extract(dataset, "#train[:8]", "#train[:8]")
    assert outcome.record["listed"] == 4 and outcome.record["listed_twice"] == 2


@pytest.mark.parametrize(
    "first, second, new",
    [
        (("#train[:40%]",), ("#train[:60%]",), 4),
        (("#train[40%:60%]",), ("#train[:80%]",), 12),
        (("#train[:6]", "#train[10:]"), ("",), 4),
        (("#train[:6]",), ("#train[3:]",), 14),
        (("",), ("#train[2:5]",), 0),
    ],
)
def test_a_later_run_adds_what_is_missing_and_no_more(dataset, first, second, new):
    before = stored_keys(extract(dataset, *first))
    outcome = extract(dataset, *second)
    assert outcome.record["ledger"]["rows"] == new
    both = listed_keys(*(f"{dataset}{text}" for text in (*first, *second)))
    assert stored_keys(outcome) == both and len(both) == len(before) + new
    assert outcome.record["superseded"]["rows"] == 0
    assert extract(dataset, *second).record["chunks"] == 0


def test_another_input_beside_it_makes_no_slice_new(dataset, tmp_path):
    extract(dataset, "#train[:40%]")
    other = write_set(tmp_path / "other")
    outcome = run(
        "--input", f"{dataset}#train[:60%]", f"{other}#train[:1]", "--output", tmp_path / "s",
        *SMALL,
    )  # fmt: skip
    assert outcome.record["ledger"]["rows"] == 5 and len(stored_keys(outcome)) == 13


def test_pruning_a_slice_drops_what_it_leaves_out_and_nothing_else(dataset):
    extract(dataset, "#train[:60%]")
    outcome = extract(dataset, "#train[:40%]", more=["--prune"])
    assert stored_keys(outcome) == listed_keys(f"{dataset}#train[:40%]")
    assert extract(dataset, "#train[:40%]", more=["--prune"]).record["chunks"] == 0
    outcome = extract(dataset, "#train[:60%]")
    assert stored_keys(outcome) == listed_keys(f"{dataset}#train[:60%]")
    assert outcome.record["ledger"]["rows"] == 4


def test_pruning_a_whole_shard_that_comes_back(dataset):
    extract(dataset, "")
    assert len(stored_keys(extract(dataset, "#train[:7]", more=["--prune"]))) == 7
    assert len(stored_keys(extract(dataset, ""))) == COUNT


def test_pruning_and_growing_at_once(dataset):
    extract(dataset, "#train[:9]")
    outcome = extract(dataset, "#train[2:11]", more=["--prune"])
    assert stored_keys(outcome) == listed_keys(f"{dataset}#train[2:11]")
    assert extract(dataset, "#train[2:11]", more=["--prune"]).record["chunks"] == 0


def test_members_that_a_changed_shard_lost_are_pruned(dataset):
    extract(dataset, "")
    first = dataset / "d-train.tfrecord-00000-of-00003"
    with SteadyFile(fsspec.filesystem("file"), str(first)) as file:
        kept = b"".join(map(frame, itertools.islice(read_records(file), 3)))
    first.write_bytes(kept)
    assert len(stored_keys(extract(dataset, ""))) == COUNT
    assert len(stored_keys(extract(dataset, "", more=["--prune"]))) == COUNT - 4
    assert extract(dataset, "", more=["--prune"]).record["chunks"] == 0


def test_a_key_does_not_depend_on_the_slice(tmp_path):
    dataset = write_set(tmp_path / "d", names=["a.png", "b.png"])
    whole = listed_keys(dataset)
    parts = [listed_keys(f"{dataset}#train[{i}:{i + 1}]") for i in range(COUNT)]
    assert sorted(key for part in parts for key in part) == whole and len(whole) == COUNT


@pytest.mark.parametrize(
    "text",
    [
        "[-:10]",
        "[%:]",
        "[:-]",
        "[-%:]",
        "[:-%]",
        "[5]",
        "[:]]",
        "[1:2:3]",
        "[.5:]",
        "[:40%",
        "+test",
    ],
)
def test_what_is_no_slice_is_one_line(dataset, text, capsys):
    with pytest.raises(UsageError, match="is not a slice of a split"):
        listed_keys(f"{dataset}#train{text}")


@pytest.mark.parametrize("text", ["[50%:20%]", "[20:]", "[:-100%]", "[0:0]"])
def test_an_empty_slice_is_an_error(dataset, text):
    with pytest.raises(UsageError, match="takes none of the 20 examples of split 'train'"):
        listed_keys(f"{dataset}#train{text}")


RANGES = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 8)), max_size=5).map(
    lambda pairs: union(tuple((first, first + size) for first, size in pairs))
)
QUICK = settings(max_examples=100, deadline=None, derandomize=True)


def numbers(ranges):
    return {number for number in range(60) if holds(ranges, number)}


@QUICK
@given(RANGES, RANGES)
def test_ranges_are_sets_of_numbers(a, b):
    assert numbers(union(a, b)) == numbers(a) | numbers(b)
    assert numbers(without(a, b)) == numbers(a) - numbers(b)
    assert union(without(a, b), without(a, without(a, b))) == a
    assert without(WHOLE, union(without(WHOLE, a), a)) == ()


@QUICK
@given(RANGES.filter(bool), st.sampled_from(["", "17.5", "a#b", "#1:"]))
def test_ranges_travel_in_an_etag(ranges, etag):
    shard = ShardRef("k", "u", 1, file_etag(etag), "tfrecord")
    for some in (ranges, WHOLE, without(WHOLE, ranges)):
        sliced = with_records(shard, some)
        assert records_of(sliced.etag) == some and file_etag(sliced.etag) == shard.etag


@QUICK
@given(st.lists(st.integers(0, 100), min_size=1, max_size=4), st.integers(1, 60))
def test_neighbouring_percents_are_a_partition(cuts, examples):
    edges = [0, *sorted(set(cuts) - {0, 100}), 100]
    bounds = [
        Slice("train", f"{low}%", f"{high}%").bounds(examples)
        for low, high in itertools.pairwise(edges)
    ]
    assert [i for low, high in bounds for i in range(low, high)] == list(range(examples))


@QUICK
@given(st.text("-%0123456789:[]#+train.", max_size=12))
def test_any_text_behind_the_hash_is_a_slice_or_refused(text):
    try:
        folder, wanted = split_request(f"d#{text}")
    except UsageError:
        return
    if wanted:
        assert folder.startswith("d")
        low, high = wanted.bounds(10)
        assert 0 <= low <= high <= 10


SLICES = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20)), min_size=1, max_size=5)


@QUICK
@given(SLICES, st.booleans())
def test_an_inventory_wants_each_record_once(slices, from_the_end):
    shards = [
        ShardRef(f"d-train.tfrecord-{i:05d}-of-00003", f"file:///d/{i}", 9, "1", "tfrecord")
        for i in range(3)
    ]
    inventory, wanted = Inventory(), []
    for low, size in slices:
        high = "" if from_the_end else str(low + size)
        if low >= COUNT:
            continue
        taken = take(shards, Slice("train", str(low), high), {"train": SHARDS})
        wanted += [decided.ref for _, decided in inventory.sift(taken) if decided]
    got = [
        (ref.key, number)
        for ref in wanted
        for number in range(9)
        if holds(records_of(ref.etag), number) and number < SHARDS[int(ref.uri[-1])]
    ]
    places = [(shards[i].key, number) for i, count in enumerate(SHARDS) for number in range(count)]
    expected = {
        places[number]
        for low, size in slices
        for number in range(low, COUNT if from_the_end else min(COUNT, low + size))
    }
    assert sorted(got) == sorted(expected), "all of them, none twice"
    assert all(end == END or end < 9 for ref in wanted for _, end in records_of(ref.etag))


def splits_of(outcome):
    loaded = outcome.store.load(["key", "split"])
    return dict(zip(loaded["key"], loaded["split"], strict=True))


def test_slices_of_one_set_become_the_splits_that_they_are_named_for(dataset):
    slices = {"train": "[:40%]", "val": "[40%:50%]", "test": "[50%:60%]"}
    uris = [f"{name}={dataset}#train{text}" for name, text in slices.items()]
    outcome = run("--input", *uris, "--output", dataset.parent / "s", *SMALL)
    assert sorted(splits_of(outcome)) == listed_keys(f"{dataset}#train[:60%]")
    for name, text in {"train": "[:40%]", "validation": "[40%:50%]", "test": "[50%:60%]"}.items():
        taken = [key for key, split in splits_of(outcome).items() if split == name]
        assert sorted(taken) == listed_keys(f"{dataset}#train{text}"), name
    assert outcome.record["inputs"][1].startswith("validation="), outcome.record["inputs"]


def test_a_misspelt_split_of_a_slice_is_one_line(dataset):
    with pytest.raises(UsageError, match="unknown value 'trian'; did you mean train"):
        listed_keys(f"trian={dataset}#train[:40%]")
