"""A machine tries the precisions of a base once, and checks what it remembers of them."""

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.extraction import run
from support.images import write_images
from support.stores import make_spec

from classifier.cachefolder import CACHE_VARIABLE
from classifier.engines import EngineChoice, StoredBase
from classifier.engines.hardware import Hardware, processor
from classifier.engines.options import Candidates, EngineOptions
from classifier.engines.precision import Closeness, Measured
from classifier.runtime import import_keras
from featurestore.io.storage import Storage
from pipelines.opening import engine, trials
from pipelines.opening.engine import choose_engine
from pipelines.opening.trials import SAMPLE_IMAGES, Trial, recall, remember, trial_key

SERVER = Hardware(native={"tensorflow": ("bfloat16",)})
# Angles between rows in radians: `auto` allows 0.02 in the median.
FAR, NEAR, CLOSE = 0.06, 0.018, 0.005


class Turned:
    """An engine whose rows are points on a circle, turned by an angle from float32's."""

    batch_size = 8

    def __init__(self, angle: float) -> None:
        self.angle = angle

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        angles = batch.reshape(len(batch), -1).mean(axis=1) / 100 + self.angle
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


class Input:
    """The images of an input, which counts how many are asked for."""

    def __init__(self, images: int = 1000) -> None:
        self.images, self.drawn = images, []

    def __call__(self, count: int) -> np.ndarray:
        self.drawn.append(count)
        shape = (min(count, self.images), 32, 32, 3)
        return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def choose(monkeypatch, tmp_path) -> Callable:
    """Chooses for a base whose bfloat16 has an angle from float32, and is a given times faster."""

    def choose(angle, images, faster=2.0, weights="0" * 32, **asked):
        spec = make_spec()
        spec = dataclasses.replace(spec, base=dataclasses.replace(spec.base, weights_hash=weights))
        rates = {"float32": 100.0, "bfloat16": 100.0 * faster}
        angles = {"float32": 0.0, "bfloat16": angle}
        monkeypatch.setattr(engine, "load_engine", lambda _, it, *a: Turned(angles[it.precision]))
        monkeypatch.setattr("classifier.engines.precision.throughput", lambda *a: rates)
        base = StoredBase(Storage(tmp_path), spec)
        return choose_engine(EngineOptions(**asked), 8, base, images, lambda: SERVER)

    return choose


def test_a_second_use_checks_a_low_precision_on_few_images(choose):
    images = Input()
    first = choose(CLOSE, images)
    assert first.choice == EngineChoice("tensorflow", "bfloat16")
    assert "remembered" not in first.record
    again = choose(CLOSE, images)
    assert again.choice == first.choice and again.record["measured"] == first.record["measured"]
    assert images.drawn == [SAMPLE_IMAGES, engine.CHECKED_IMAGES]
    assert (
        f"remembered from {again.record['remembered']}, on 64 images: float32 100 im" in again.line
    )
    assert "on 16 images of this input: cosine 0.99999, lowest 0.99999; --remeasure" in again.line


def test_float32_needs_no_images_again(choose):
    images = Input()
    for angle, faster in ((FAR, 2.0), (CLOSE, 0.5)):
        for weights in ("a" * 32, "a" * 32):
            chosen = choose(angle, images, faster, weights=f"{angle}{weights}")
            assert chosen.choice == EngineChoice("tensorflow", "float32")
    assert images.drawn == [SAMPLE_IMAGES] * 2


@pytest.mark.parametrize("angle", [NEAR, FAR])
def test_an_input_that_does_not_bear_a_choice_out_is_tried_whole(choose, angle):
    choose(CLOSE, Input())
    images = Input()
    chosen = choose(angle, images)
    assert images.drawn == [engine.CHECKED_IMAGES, SAMPLE_IMAGES]
    assert "remembered" not in chosen.record
    assert chosen.choice.precision == ("bfloat16" if angle == NEAR else "float32")


def test_what_is_near_the_bound_or_of_few_images_is_not_remembered(choose, cache):
    for images in (Input(), Input()):
        assert choose(NEAR, images).choice.precision == "bfloat16"
        assert images.drawn == [SAMPLE_IMAGES]
    choose(CLOSE, Input(SAMPLE_IMAGES - 1))
    assert not list(cache.rglob("*.zip"))


def test_changed_weights_and_remeasure_are_tried_again(choose):
    choose(CLOSE, Input())
    for changes in ({"weights": "1" * 32}, {"remeasure": True}, {"precision": "bfloat16"}):
        images = Input()
        assert "remembered" not in choose(CLOSE, images, **changes).record
        assert images.drawn == [SAMPLE_IMAGES]


def test_damage_costs_time_only(choose, cache):
    choose(CLOSE, Input())
    (file,) = cache.rglob("*.zip")
    data = file.read_bytes()
    for damaged in (b"", data[:-10], data[:60] + bytes([data[60] ^ 1]) + data[61:]):
        file.write_bytes(damaged)
        assert "remembered" not in choose(CLOSE, Input()).record
        assert "remembered" in choose(CLOSE, Input()).record


def test_the_key_holds_all_that_a_trial_depends_on(monkeypatch):
    found = Candidates("openvino", ("float32", "bfloat16"), "")
    key = trial_key(make_spec(), found, 16, 2)
    others = [
        trial_key(make_spec(), found, 32, 2),
        trial_key(make_spec(), found, 16, 4),
        trial_key(make_spec(), dataclasses.replace(found, engine="tensorflow"), 16, 2),
        trial_key(make_spec(), dataclasses.replace(found, precisions=("float32",)), 16, 2),
    ]
    for name, value in (("pooling", "avg"), ("weights_hash", "1" * 32), ("preprocess", "tf")):
        base = dataclasses.replace(make_spec().base, **{name: value})
        others.append(trial_key(make_spec(base=base), found, 16, 2))
    monkeypatch.setattr(trials, "__version__", "9")
    others.append(trial_key(make_spec(), found, 16, 2))
    monkeypatch.setattr(trials, "processor", lambda: "another")
    others.append(trial_key(make_spec(), found, 16, 2))
    monkeypatch.setattr("classifier.engines.engine.version", lambda name: "0")
    others.append(trial_key(make_spec(), found, 16, 2))
    assert len({repr(each) for each in (key, *others)}) == 1 + len(others)
    trial = Trial.today(64, [Measured("float32", 9.0), Measured("b", 1.0, Closeness(64, 1, 1, 0))])
    remember(key, trial)
    assert recall(key) == trial and not any(map(recall, others))


def test_a_reader_sees_whole_trials_only_while_others_write():
    trials = [Trial.today(64, [Measured("float32", float(rate))] * 50) for rate in range(20)]
    with ThreadPoolExecutor(4) as pool:
        written = [pool.submit(remember, ["one"], trial) for trial in trials]
        while not all(each.done() for each in written):
            assert recall(["one"]) in (None, *trials)
    assert recall(["one"]) in trials


def test_the_processor_is_named_without_what_changes_by_the_second():
    assert processor() == processor() and "MHz" not in processor()


def test_an_extraction_remembers_and_says_so(tmp_path):
    keras = import_keras()
    layers = [keras.Input((32, 32, 3)), keras.layers.Conv2D(4, 3, name="last")]
    keras.Sequential(layers).save(tmp_path / "tiny.keras")
    write_images(tmp_path / "photos", SAMPLE_IMAGES)
    flags = ["--input", tmp_path / "photos", "--model", tmp_path / "tiny.keras", "--preprocess"]
    flags += ["tf", "--engine", "tensorflow", "--precision", "bfloat16", "--output"]
    first = run(*flags, tmp_path / "first").record["engine"]
    again = run(*flags, tmp_path / "again").record["engine"]
    anew = run(*flags, tmp_path / "anew", "--remeasure").record["engine"]
    is_clear = Measured.from_record(first["measured"][1]).is_clear
    assert ["remembered" in record for record in (first, again, anew)] == [False, is_clear, False]
    assert not is_clear or "--remeasure tries again" in again["reason"]
