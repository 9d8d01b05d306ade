"""The time report: every lane-second of a run has a place, and the largest gives the advice."""

import pytest

from pipelines.finishing.timereport import RunTime, time_lines, time_report


def chunk(worker="a", span=(10.0, 20.0), lanes=1, images=10, megapixels=2.0, **seconds):
    """A chunk's record whose lanes were idle where nothing else is said."""
    begin, end = span
    states = dict.fromkeys(("read", "decode", "infer", "write", "idle"), 0.0) | seconds
    states["idle"] = lanes * (end - begin) - sum(states.values())
    return {
        "worker": worker,
        "lanes": lanes,
        "started": begin,
        "first": begin + 1,
        "finished": end,
        "lane_seconds": states,
        "images": images,
        "megapixels": megapixels,
    }


LONG = RunTime(started=8.0, finished=31.0, steps={"listing": 0.5, "base": 1.5}, workers=1)


def test_the_steps_add_up_to_the_first_image():
    report = time_report([chunk(span=(10, 20), infer=10)], LONG)
    assert report["to_first_image"] == 3
    assert report["steps"] == {"listing": 0.5, "base": 1.5, "workers": 1.0}
    assert report["after_last_chunk"] == 11 and report["seconds"] == 23


def test_every_lane_second_is_booked_once():
    times = [
        chunk("a", (10, 20), lanes=2, infer=12, decode=4),
        chunk("a", (22, 30), lanes=2, infer=10, read=2),
        chunk("b", (12, 15), lanes=1, write=3),
    ]
    report = time_report(times, RunTime(8, 31, workers=4))
    assert report["workers"] == 4 and report["lanes"] == 2 + 1 + 2 * 2
    assert sum(report["lane_seconds"].values()) == report["lanes"] * (30 - 10)
    assert report["lane_seconds"]["infer"] == 22
    assert report["idle_seconds"] == {
        "chunk ends": 4 + 4 + 2 * 2,
        "no chunk": (2 + 15) + 4 * 20,
    }


def test_chunks_that_overlap_in_one_worker_leave_no_gap():
    times = [chunk(span=(10, 20), infer=5, idle=0), chunk(span=(12, 18)), chunk(span=(20, 30))]
    assert time_report(times, LONG)["idle_seconds"]["no chunk"] == 0


@pytest.mark.parametrize(
    "times, run, bound, words",
    [
        ([chunk(infer=9)], LONG, "infer", "--precision"),
        ([chunk(decode=9)], LONG, "decode", "more cores"),
        ([chunk(decode=9, megapixels=120)], LONG, "decode", "have 12 megapixels; scale them down"),
        ([chunk(read=9)], LONG, "read", "pipelines.pack"),
        ([chunk(read=9)], RunTime(8, 31, shards=True), "read", "shards of their own"),
        ([chunk(write=9)], LONG, "write", "the store"),
        ([chunk()], LONG, "idle", "larger --chunk_size"),
        ([chunk(infer=10)], RunTime(8, 31, workers=3), "idle", "smaller --chunk_size"),
        ([chunk(infer=10)], RunTime(-50, 21), "start", "loading the libraries"),
    ],
)
def test_the_largest_part_is_the_bound(times, run, bound, words):
    report = time_report(times, run)
    assert report["bound"] == bound and words in report["advice"]
    assert time_lines(report)[1] == f"bound by {bound}: {report['advice']}"


def test_two_lines_for_a_person():
    report = time_report([chunk(span=(10, 30), lanes=2, infer=30, decode=8, read=1)], LONG)
    assert time_lines(report)[0] == (
        "time: 3.0 s to the first image (listing 0.5, base 1.5, workers 1.0), then on 2 lanes: "
        "read 2%, decode 20%, infer 75%, write 0%, idle 2%"
    )


def test_a_run_without_chunks_has_only_its_seconds():
    report = time_report([], LONG)
    assert report == {"seconds": 23, "steps": {"listing": 0.5, "base": 1.5}}
    assert time_lines(report) == []


def test_a_chunk_of_nothing_but_bad_images_still_has_a_report():
    times = [chunk(span=(10, 20), images=0, megapixels=0.0, decode=10) | {"first": 0.0}]
    report = time_report(times, LONG)
    assert report["to_first_image"] == 12 and report["megapixels"] == 0
