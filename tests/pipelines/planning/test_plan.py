"""Planning: chunks, what is committed, limits, options that check themselves."""

from functools import partial

import numpy as np
import pytest
from support.stores import add_chunk, make_rows, make_store

from classifier.base.request import parse_image_size
from classifier.inputs import ImageRef, ShardRef
from featurestore.errors import UsageError
from pipelines.options import (
    ChunkOptions,
    Limits,
    Selection,
    SplitFractions,
)
from pipelines.planning.chunks import Wanted, chunk_size, cut
from pipelines.planning.inventory import Inventory
from pipelines.planning.plan import CHUNKS_PER_FILE, read_chunk, select, write_plan


def refs_of(count: int) -> list[ImageRef]:
    return [
        ImageRef(
            row["key"], row["uri"], row["size"], row["etag"], tuple(row["labels"]), row["split"]
        )
        for row in make_rows(count)
    ]


SHARD = ShardRef("s.tar", "file:///s.tar", 5, "1", "tar", layout="found class my pets")


def wanted(refs):
    return [Wanted(ref) for ref in refs]


def refs_in(chunks):
    return [image.ref for chunk in chunks for image in chunk.images]


def planned(store, refs, size=0):
    """Plans a run; returns the plan and its chunks, read back."""
    sizes = partial(chunk_size, size, 32)
    plan = write_plan(store.storage, "r", refs, Inventory.read(store), sizes)
    chunks = [
        read_chunk(store.storage, name, number)
        for name, count in plan.files
        for number in range(count)
    ]
    return plan, chunks


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 8, 9])
def test_chunks_hold_everything_once_in_order(count):
    refs = refs_of(count)
    chunks = list(cut(wanted(refs), 4))
    assert refs_in(chunks) == refs
    assert all(len(chunk.images) == 4 for chunk in chunks[:-1])


def test_a_shard_is_a_chunk_of_its_own():
    chunks = list(cut(wanted([*refs_of(1), SHARD, *refs_of(2)]), 4))
    assert sum(chunk.shard == Wanted(SHARD) and not chunk.images for chunk in chunks) == 1
    assert sum(len(chunk.images) for chunk in chunks) == 3


@pytest.mark.parametrize(
    "listed, row_bytes, size",
    [(0, 4, 32), (1, 4, 32), (2048, 4, 64), (2049, 4, 80), (10**6, 4, 1024), (10**6, 1 << 30, 1)],
)
def test_chunk_sizes(listed, row_bytes, size):
    assert chunk_size(0, row_bytes, listed) == size
    assert chunk_size(7, row_bytes, listed) == 7


def test_a_plan_is_read_back_and_drops_what_is_committed(tmp_path):
    store = make_store(tmp_path / "s")
    bad = {
        "key": "00004.png",
        "uri": "file:///images/00004.png",
        "size": 14,
        "etag": "1",
        "kind": "x",
        "message": "m",
    }
    add_chunk(store, make_rows(4), np.ones((4, 8), np.float32), [bad])
    refs = [*refs_of(11), SHARD]
    plan, chunks = planned(store, refs, 3)
    assert (plan.listed, plan.committed, plan.images, plan.shards, plan.chunks) == (12, 5, 6, 1, 3)
    assert refs_in(chunks) == refs[5:11]
    assert [chunk.shard.ref for chunk in chunks if chunk.shard] == [SHARD]


def test_a_resumed_plan_cuts_the_same_chunks(tmp_path):
    store = make_store(tmp_path / "s")
    refs = refs_of(500)
    before = {chunk.chunk_id for chunk in cut(wanted(refs), chunk_size(0, 32, 500))}
    add_chunk(store, make_rows(32), np.ones((32, 8), np.float32))
    after = {chunk.chunk_id for chunk in planned(store, refs)[1]}
    assert after < before and len(after) == len(before) - 1


def test_the_same_image_listed_twice_is_planned_once(tmp_path):
    plan, _ = planned(make_store(tmp_path / "s"), [*refs_of(3), *refs_of(2)])
    assert plan.images == 3


def test_many_chunks_go_into_several_files(tmp_path):
    plan, _ = planned(make_store(tmp_path / "s"), refs_of(CHUNKS_PER_FILE + 1), 1)
    assert [count for _, count in plan.files] == [CHUNKS_PER_FILE, 1]


def test_nothing_new_writes_nothing(tmp_path):
    store = make_store(tmp_path / "s")
    assert planned(store, [])[0].files == ()
    assert store.storage.list("plans") == []


def test_limits():
    refs = refs_of(24)
    assert list(select(refs, Selection(limit=5))) == refs[:5]
    assert list(select(refs, Selection())) == refs
    per_class = list(select(refs, Selection(limit_per_class=1)))
    assert len(per_class) == 12  # 3 classes in each of 4 splits
    assert list(select([SHARD, *refs], Selection(limit=1))) == [SHARD, refs[0]]


def test_split_fractions_follow_content_and_seed():
    shares = SplitFractions.parse("train=.8,validation=.1,test=.1")
    random = np.random.default_rng(0)
    hashes = [random.bytes(32).hex() for _ in range(4000)]
    chosen = [shares.choose(0, text) for text in hashes]
    assert chosen == [shares.choose(0, text) for text in hashes]
    assert abs(chosen.count("train") / 4000 - 0.8) < 0.03
    assert abs(chosen.count("test") / 4000 - 0.1) < 0.03
    other = [shares.choose(1, text) for text in hashes]
    assert 0.25 < np.mean([a != b for a, b in zip(chosen, other, strict=True)]) < 0.45
    assert SplitFractions.parse("").choose(0, hashes[0]) is None
    assert SplitFractions.parse("test=1").choose(0, "f" * 64) == "test"


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda: SplitFractions.parse("train=.5"), "must sum to 1, got 0.5"),
        (lambda: SplitFractions.parse("tarin=1"), "got 'tarin=1'"),
        (lambda: SplitFractions.parse("train=x"), "got 'train=x'"),
        (lambda: Selection(limit=-1), "--limit must be positive, got -1"),
        (lambda: Selection(limit_per_class=-1), "--limit_per_class"),
        (lambda: ChunkOptions(batch_size=0), "--batch_size must be 1 to 4096, got 0"),
        (lambda: ChunkOptions(chunk_size=-1), "--chunk_size"),
        (lambda: Limits(max_bad_fraction=1.5), "--max_bad_fraction must be 0 to 1, got 1.5"),
        (lambda: parse_image_size("big"), "got 'big'"),
        (lambda: parse_image_size("0"), "got 0x0"),
        (lambda: parse_image_size("180x"), "got '180x'"),
        (lambda: parse_image_size(5000 * "9"), "--image_size: expected 180 or 180x240"),
    ],
)
def test_options_check_themselves(build, words):
    with pytest.raises(UsageError, match=words):
        build()


def test_image_sizes_are_height_by_width():
    assert parse_image_size("180") == (180, 180)
    assert parse_image_size("180x240") == (180, 240)
