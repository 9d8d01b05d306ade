"""The lanes' clock: every moment of every lane is booked once, under its reason."""

import random

import pytest

from pipelines.watching.timing import STATES, LaneClock, Laps


class Now:
    """A clock that moves only when told to."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds

    def after(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def now() -> Now:
    return Now()


def spent(chunk) -> dict[str, float]:
    return {state: seconds for state, seconds in chunk.seconds.items() if seconds}


def test_a_lane_that_waits_does_so_for_the_reason_its_feeder_has(now):
    clock = LaneClock(2, now)
    with clock.chunk() as chunk:
        now.after(1)
        with chunk.feeds("read"):
            now.after(2)
            with chunk.works("decode"):
                now.after(4)
        with chunk.works("infer"):
            now.after(8)
        with chunk.feeds("write"):
            now.after(16)
    assert spent(chunk) == {
        "idle": 2 * 1 + 8,
        "read": 2 * 2 + 4,
        "decode": 4,
        "infer": 8,
        "write": 2 * 16,
    }


def test_a_feeder_that_works_while_all_lanes_do_costs_nothing(now):
    clock = LaneClock(1, now)
    with clock.chunk() as chunk, chunk.works("infer"), chunk.feeds("write"):
        now.after(5)
    assert spent(chunk) == {"infer": 5}


def test_chunks_under_way_at_once_share_the_waiting_lanes(now):
    clock = LaneClock(3, now)
    with clock.chunk() as one:
        now.after(1)
        with clock.chunk() as other, one.works("infer"), other.feeds("read"):
            now.after(2)
        now.after(1)
    assert spent(one) == {"idle": 3 + 2 + 3, "infer": 2}
    assert spent(other) == {"read": 2}


def test_between_chunks_nothing_is_booked(now):
    clock = LaneClock(2, now)
    with clock.chunk() as one:
        now.after(1)
    now.after(50)
    with clock.chunk() as other:
        now.after(2)
    assert spent(one) == {"idle": 2} and spent(other) == {"idle": 4}


def test_an_error_leaves_no_lane_behind(now):
    clock = LaneClock(1, now)
    with pytest.raises(ValueError), clock.chunk() as chunk, chunk.feeds("write"):
        with chunk.works("decode"):
            now.after(1)
            raise ValueError
    assert not clock._chunks and not chunk.working.total() and chunk.reason == "idle"


def test_fetching_counts_as_reading_and_what_is_done_between_does_not(now):
    def items():
        for item in range(2):
            now.after(3)
            yield item
        now.after(1)

    clock = LaneClock(1, now)
    with clock.chunk() as chunk:
        for _ in chunk.reading(items()):
            now.after(10)
    assert spent(chunk) == {"read": 7, "idle": 20}


def test_a_chunk_ends_with_its_record_and_others_have_the_lanes(now):
    clock = LaneClock(2, now)
    with clock.chunk() as one, clock.chunk() as other:
        now.after(1)
        record = one.record("w")
        now.after(4)
    assert record["lane_seconds"]["idle"] == spent(one)["idle"] == 1
    assert spent(other) == {"idle": 1 + 2 * 4}
    assert record["finished"] - record["started"] == pytest.approx(1)


@pytest.mark.parametrize("lanes", [1, 2, 5])
def test_states_add_up_to_lanes_times_seconds(now, lanes):
    draw = random.Random(lanes)
    clock = LaneClock(lanes, now)
    with clock.chunk() as one, clock.chunk() as other:
        for _ in range(200):
            chunk = draw.choice((one, other))
            step = chunk.works if draw.random() < 0.5 else chunk.feeds
            state = draw.choice(("decode", "infer") if step == chunk.works else ("read", "write"))
            with step(state):
                now.after(draw.random())
            now.after(draw.random())
        record = one.record("w")
    booked = sum(one.seconds.values()) + sum(other.seconds.values())
    assert booked == pytest.approx(lanes * (now.seconds - 100))
    assert set(record["lane_seconds"]) == set(STATES) and record["lanes"] == lanes


def test_megapixels_are_those_of_the_files(now):
    with LaneClock(1, now).chunk() as chunk:
        assert chunk.record("w")["first"] == 0
        chunk.passed([{"width": 1000, "height": 500}] * 4)
        record = chunk.record("w")
    assert record["megapixels"] == 2
    assert record["started"] <= record["first"] <= record["finished"]


def test_laps_are_the_time_since_the_last_one(now):
    laps = Laps(now)
    now.after(2)
    laps.lap("base")
    now.after(3)
    laps.lap("plan")
    assert laps.seconds == {"base": 2, "plan": 3}
