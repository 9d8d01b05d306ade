"""What is done for a GPU, tried on the processor: batches by doubling, one queue, one device."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.commands import ROOT
from support.extraction import assert_same_rows, run
from support.images import write_images

from classifier.engines import batching, device, limit_threads
from classifier.engines.batching import AHEAD, BatchTrial, DeviceQueue, fastest_batch
from classifier.engines.hardware import this_machine
from classifier.engines.options import EngineOptions, candidates
from featurestore import UsageError

SIZE = (4, 6)


class Sums:
    """An engine whose features are the sum of an image's pixels, and whose calls can be held."""

    feature_shape, numerics = (1,), None

    def __init__(self, batch_size, seconds=None):
        self.batch_size, self.seconds, self.calls = batch_size, seconds, []
        self.free = threading.Event()
        self.free.set()

    def __call__(self, batch):
        assert batch.shape == (self.batch_size, *SIZE, 3) and batch.dtype == np.uint8
        self.free.wait(30)
        self.calls.append(sum(image.any() for image in batch))
        return batch.reshape(len(batch), -1).sum(axis=1, dtype=np.float32)[:, None]


def images(count, first=1):
    return np.stack([np.full((*SIZE, 3), first + number, np.uint8) for number in range(count)])


def clock(seconds_of):
    """A clock that a made-up call moves on: batch size -> seconds."""
    now = [0.0]

    class Timed(Sums):
        def __call__(self, batch):
            now[0] += seconds_of(self.batch_size)
            return super().__call__(batch)

    return Timed, lambda: now[0]


def test_the_batch_doubles_until_that_pays_no_longer():
    make, now = clock(lambda size: 1.0 + size / 64)
    engine, trials = fastest_batch(make, SIZE, 16, now=now)
    sizes = [trial.batch_size for trial in trials]
    assert sizes == [16, 32, 64, 128, 256, 512, 1024] and engine.batch_size == 1024
    make, now = clock(lambda size: max(1.0, size / 64))
    engine, trials = fastest_batch(make, SIZE, 16, now=now)
    assert [(trial.batch_size, trial.images_per_second) for trial in trials] == [
        (16, 16), (32, 32), (64, 64), (128, 64)
    ]  # fmt: skip
    assert engine.batch_size == 64


def test_a_batch_beyond_memory_ends_the_search_and_the_first_one_fails():
    def seconds(size):
        if size > 32:
            raise MemoryError
        return 1.0

    make, now = clock(seconds)
    engine, trials = fastest_batch(make, SIZE, 16, now=now)
    assert engine.batch_size == 32 and trials[-1] == BatchTrial(64, 0.0)
    with pytest.raises(MemoryError):
        fastest_batch(make, SIZE, 64, now=now)


def test_lanes_share_full_batches_and_each_gets_its_own_rows():
    engine = Sums(32)
    shared = DeviceQueue(engine, 8, [])
    assert shared.lanes(2) == AHEAD * 4 and shared.lanes(100) == 100
    engine.free.clear()
    with ThreadPoolExecutor(9) as lanes:
        first = lanes.submit(shared, images(8))
        while shared._server._device.locked() is False:
            time.sleep(0.001)  # The device has begun with what there was.
        rest = [lanes.submit(shared, images(8, 10 * (number + 1))) for number in range(8)]
        while shared._server._waiting.qsize() + 4 < 8:
            time.sleep(0.001)  # The next full batch is gathered meanwhile.
        engine.free.set()
        found = [future.result(30) for future in (first, *rest)]
    for number, features in enumerate(found):
        begin = 10 * number or 1
        assert features[:, 0].tolist() == [72 * (begin + place) for place in range(8)]
    assert engine.calls == [8, 32, 32]
    totals = shared.totals
    assert (totals["device_images"], totals["device_places"]) == (72, 96)
    assert totals["device_seconds"] > 0


def test_an_error_of_the_device_reaches_every_lane_and_the_next_call_works():
    class Fails(Sums):
        def __call__(self, batch):
            if not batch.any():
                raise ValueError("no")
            return super().__call__(batch)

    shared = DeviceQueue(Fails(16), 8, [])
    with ThreadPoolExecutor(2) as lanes:
        failed = [lanes.submit(shared, np.zeros((8, *SIZE, 3), np.uint8)) for _ in range(2)]
        for future in failed:
            with pytest.raises(ValueError, match="no"):
                future.result(30)
    assert shared(images(8)).shape == (8, 1)
    with pytest.raises(ValueError, match="takes uint8"):
        shared(images(7))


def test_a_queue_that_is_dropped_ends_its_threads():
    shared = DeviceQueue(Sums(16), 8, [])
    shared(images(8))
    server = shared._server
    threads = [one for one in threading.enumerate() if one.name.startswith("device-")]
    mine = [one for one in threads if one._target.__self__ is server]  # type: ignore[attr-defined]
    assert len(mine) == 2
    del shared
    for thread in mine:
        thread.join(30)
        assert not thread.is_alive()


def test_each_process_claims_a_device_of_its_own(tmp_path):
    script = (
        "import sys; from classifier.engines.device import claim\n"
        "print(claim(['0', '1']), flush=True); sys.stdin.read()"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"TMPDIR": str(tmp_path)},
        )
        for _ in range(3)
    ]  # fmt: skip
    try:
        claimed = [int(process.stdout.readline()) for process in processes]
    finally:
        for process in processes:
            process.communicate(timeout=60)
    # The third one shares.
    assert sorted(claimed) in ([0, 0, 1], [0, 1, 1])


def test_float32_is_never_rounded_to_tf32():
    import tensorflow as tf

    tf.config.experimental.enable_tensor_float_32_execution(True)
    # TensorFlow may have started already, and then keeps its threads.
    limit_threads(1)
    assert not tf.config.experimental.tensor_float_32_execution_enabled()


@pytest.fixture
def stand_in(monkeypatch):
    """The processor in place of a GPU."""
    monkeypatch.setenv(device.VARIABLE, "cpu")
    monkeypatch.setattr(batching, "MOST_IMAGES", 64)
    this_machine.cache_clear()
    yield
    this_machine.cache_clear()


def test_the_processor_stands_in_and_says_so(stand_in, monkeypatch):
    found = candidates(EngineOptions(), this_machine())
    assert found.precisions == ("float32", "bfloat16")
    assert "stands in for a GPU (HOARFROST_DEVICE=cpu)" in found.reason
    monkeypatch.setenv(device.VARIABLE, "gpu")
    with pytest.raises(UsageError, match="HOARFROST_DEVICE.*'gpu'"):
        device.asked()


SMALL = ("--model", "MobileNetV2", "--weights", "none", "--pooling", "avg", "--image_size", "32")


def test_an_extraction_takes_the_way_of_a_gpu(tmp_path, stand_in, monkeypatch):
    write_images(tmp_path / "photos", 70)
    flags = ("--input", tmp_path / "photos", *SMALL, "--chunk_size", "40", "--batch_size", "8")
    shared = run(*flags, "--output", tmp_path / "a", "--precision", "float32")
    assert shared.record["engine"]["engine"] == "tensorflow"
    found = shared.record["time"]["device"]
    assert 0 < found["busy"] <= 1 and 0 < found["full"] <= 1 and found["devices"] == 1
    markers = shared.store.markers().values()
    assert sum(marker.time["device_images"] for marker in markers) >= 70
    monkeypatch.setenv(device.VARIABLE, "none")
    # The process would keep the engine that it has.
    monkeypatch.setattr("pipelines.extraction.worker._ENGINES", {})
    this_machine.cache_clear()
    own = ("--engine", "tensorflow", "--precision", "float32")
    plain = run(*flags, "--output", tmp_path / "b", *own)
    assert "device" not in plain.record["time"]
    assert_same_rows(plain.store, shared.store)
