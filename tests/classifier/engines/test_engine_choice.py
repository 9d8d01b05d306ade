"""Which engine and precision a run takes: pure decisions first, then what was measured."""

import dataclasses

import numpy as np
import pytest
from support.stores import make_spec

from classifier.engines.engine import EngineChoice
from classifier.engines.hardware import Hardware, cpu_precisions
from classifier.engines.options import EngineOptions, candidates, for_stored
from classifier.engines.precision import Measured, choose, closeness, lowest, throughput
from classifier.engines.quantisation import divide, pooled, require_close
from featurestore.errors import SpecMismatch, UsageError
from featurestore.fields import Tap
from featurestore.numerics import Numerics
from pipelines.opening.sample import spread

BOTH = frozenset({"openvino", "nncf"})
LAPTOP = Hardware(installed=BOTH, native={"tensorflow": (), "openvino": ()})
SERVER = Hardware(
    installed=BOTH,
    native={"tensorflow": ("bfloat16",), "openvino": ("bfloat16", "float16")},
)
BARE = Hardware(native={"tensorflow": ()})
WITH_GPU = Hardware(True, BOTH, {"tensorflow": ("float16", "bfloat16"), "openvino": ()})


@pytest.mark.parametrize(
    "hardware, engine, precisions, words",
    [
        (LAPTOP, "openvino", ("float32",), "neither float16 nor bfloat16"),
        (SERVER, "openvino", ("float32", "bfloat16", "float16"), "no GPU"),
        (BARE, "tensorflow", ("float32",), "pip install 'hoarfrost[openvino]'"),
        (WITH_GPU, "tensorflow", ("float32", "float16", "bfloat16"), "there is a GPU"),
    ],
    ids=["laptop", "server", "bare", "gpu"],
)
def test_auto_goes_by_the_machine(hardware, engine, precisions, words):
    found = candidates(EngineOptions(), hardware)
    assert (found.engine, found.precisions) == (engine, precisions)
    assert words in found.reason


@pytest.mark.parametrize(
    "asked, hardware, words",
    [
        (("openvino", "auto"), BARE, "pip install 'hoarfrost\\[openvino\\]'"),
        (("auto", "int8"), BARE, "not installed here"),
        (("openvino", "bfloat16"), LAPTOP, "would compute it in float32.*use --precision"),
        (("auto", "float16"), LAPTOP, "no float16 instructions"),
    ],
)
def test_what_cannot_run_here_explains_itself(asked, hardware, words):
    with pytest.raises(UsageError, match=words) as caught:
        candidates(EngineOptions(*asked), hardware)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "asked, words",
    [
        (("openvno", "auto"), "did you mean openvino"),
        (("auto", "int4"), "--precision: unknown value 'int4'"),
        (("tensorflow", "int8"), "needs --engine openvino"),
        (("auto", "auto", True), "--allow_inexact is for --precision int8"),
    ],
)
def test_flags_are_checked_at_once(asked, words):
    with pytest.raises(UsageError, match=words):
        EngineOptions(*asked)


def test_tensorflow_computes_any_precision_and_says_when_it_is_slow():
    found = candidates(EngineOptions("tensorflow", "float16"), LAPTOP)
    assert found.precisions == ("float16",) and "expect it to be slow" in found.reason
    assert "slow" not in candidates(EngineOptions("tensorflow", "bfloat16"), SERVER).reason


def measured(precision, rate, median=None, lowest=None):
    rows = None
    if median is not None:
        rows = dataclasses.replace(closeness(np.ones((1, 1)), np.ones((1, 1))),
                                   cosine_median=median, cosine_minimum=lowest)  # fmt: skip
    return Measured(precision, rate, rows)


@pytest.mark.parametrize(
    "trials, taken",
    [
        ([("bfloat16", 100.0, 0.9998, 0.999), ("float16", 90.0, 1.0, 1.0)], "bfloat16"),
        ([("bfloat16", 100.0, 0.99979, 1.0), ("float16", 90.0, 1.0, 1.0)], "float16"),
        ([("bfloat16", 100.0, 1.0, 0.99899), ("float16", 90.0, 1.0, 1.0)], "float16"),
        ([("bfloat16", 100.0, 0.9, 0.9), ("float16", 90.0, 0.9, 0.9)], "float32"),
        ([("bfloat16", 10.4, 1.0, 1.0)], "float32"),
        ([("bfloat16", 10.5, 1.0, 1.0)], "bfloat16"),
        ([], "float32"),
    ],
)
def test_the_fastest_that_is_close_and_worth_it(trials, taken):
    every = [measured("float32", 10.0), *(measured(*trial) for trial in trials)]
    assert choose(every).precision == taken


def test_the_worst_tap_decides():
    taps = [Tap("a", "avg", "0" * 32, (97,), 0), Tap("b", "none", "1" * 32, (1, 1, 3), 1)]
    truth = np.ones((4, 100), np.float32)
    rows = truth.copy()
    rows[:, 97] = -1.0
    # Among the values of the other tap the difference would hardly show.
    assert closeness(rows, truth).cosine_minimum == pytest.approx(0.98)
    assert lowest(taps, rows, truth).cosine_minimum == pytest.approx(1 / 3)
    assert lowest((), rows, truth) == closeness(rows, truth)
    with pytest.raises(UsageError, match="allowed"):
        require_close(rows, truth, False, taps)


def test_closeness_of_odd_rows():
    zero = np.zeros((1, 3), np.float32)
    assert closeness(zero, zero).cosine_minimum == 1.0
    broken = closeness(np.full((1, 3), np.nan, np.float32), np.ones((1, 3), np.float32))
    assert (broken.cosine_minimum, broken.error_median) == (-1.0, np.inf)
    assert not Measured("float16", 99.0, broken).is_close


def test_throughput_counts_every_lane():
    class Engine:
        batch_size, feature_shape, numerics = 4, (1,), Numerics("x", "y", "z")

        def __call__(self, batch):
            calls.append(batch.shape)

    calls: list = []
    rates = throughput({"a": Engine()}, np.zeros((3, 2, 2, 3), np.uint8), 2)
    assert rates["a"] > 0 and set(calls) == {(4, 2, 2, 3)} and len(calls) % 2 == 0


OWN = {
    "tensorflow": Numerics("tensorflow", "float32", "d"),
    "openvino": Numerics("openvino", "float32", "d"),
    "bfloat16": Numerics("openvino", "bfloat16", "d"),
    "int8": Numerics("openvino", "int8", "d", model="f" * 32),
}


@pytest.mark.parametrize(
    "own, hardware, asked, taken",
    [
        ("tensorflow", LAPTOP, (), EngineChoice("tensorflow")),
        ("openvino", LAPTOP, (), EngineChoice("openvino")),
        ("openvino", BARE, (), EngineChoice("tensorflow")),
        ("bfloat16", SERVER, (), EngineChoice("openvino", "bfloat16")),
        ("bfloat16", LAPTOP, (), EngineChoice("openvino")),
        ("int8", LAPTOP, (), EngineChoice("openvino", "int8", "f" * 32)),
        ("int8", BARE, (), EngineChoice("tensorflow")),
        ("int8", LAPTOP, ("auto", "int8"), EngineChoice("openvino", "int8", "f" * 32)),
        ("int8", LAPTOP, ("tensorflow",), EngineChoice("tensorflow")),
        ("int8", LAPTOP, ("auto", "float32"), EngineChoice("openvino")),
        ("openvino", LAPTOP, ("tensorflow",), EngineChoice("tensorflow")),
        ("tensorflow", SERVER, ("openvino", "bfloat16"), EngineChoice("openvino", "bfloat16")),
    ],
)
def test_a_store_keeps_its_own_unless_told(own, hardware, asked, taken):
    choice, reason = for_stored(OWN[own], lambda: hardware, EngineOptions(*asked))
    assert choice == taken
    assert bool(reason) == (choice != EngineChoice.of(OWN[own]))


def test_int8_is_decided_when_a_store_is_made():
    with pytest.raises(SpecMismatch, match="only when a store is created"):
        for_stored(OWN["openvino"], lambda: LAPTOP, EngineOptions("auto", "int8"))


def test_processor_flags():
    assert cpu_precisions("") == () == cpu_precisions("flags : avx2 avx512f")
    assert cpu_precisions("flags\t: amx_bf16 avx512_fp16") == ("bfloat16", "float16")


def test_the_hash_of_older_numerics_stays():
    old = Numerics("tensorflow", "float32", "d", {"numpy": "2"})
    # A change of this value makes every existing store check its probes again: it must be meant.
    assert old.hash == "071dbda9ea8d0478"
    assert dataclasses.replace(old, model="f" * 32).hash != old.hash
    spec = make_spec(numerics=OWN["int8"])
    assert type(spec).from_json(spec.to_json(), "here") == spec
    assert spec.identity_hash == make_spec().identity_hash


@pytest.mark.parametrize("count, held", [(10, 2), (11, 2), (60, 12), (320, 64), (428, 61)])
def test_held_out_images_are_never_calibrated_on(count, held):
    images = np.arange(count, dtype=np.uint16).reshape(-1, 1, 1, 1)
    calibration, held_out = divide(images)
    assert len(held_out) == held and len(calibration) <= 300
    assert not set(calibration.ravel()) & set(held_out.ravel())


def test_too_few_images_for_int8():
    with pytest.raises(UsageError, match="at least 10 good images, got 9"):
        divide(np.zeros((9, 1, 1, 3), np.uint8))


def test_int8_far_from_float32_is_refused_with_the_figure():
    truth = np.ones((4, 2, 2, 3), np.float32)
    assert pooled(truth).shape == (4, 3) and pooled(truth[:, 0, 0]).shape == (4, 3)
    assert require_close(truth * 1.05, truth, False).error_median == pytest.approx(0.05, rel=1e-5)
    with pytest.raises(UsageError, match="4 held-out images are 36.0% away.*--allow_inexact"):
        require_close(truth * 1.36, truth, False)
    with pytest.raises(UsageError, match="int8"):
        require_close(truth * np.float32(np.nan), truth, False)
    assert require_close(truth * 1.36, truth, True).error_median > 0.3


def test_a_sample_spreads_over_the_input():
    refs = list(range(1000))
    drawn = spread(iter(refs), 64)
    assert len(set(drawn)) == 64 and drawn == spread(iter(refs), 64)
    assert {ref // 250 for ref in drawn} == {0, 1, 2, 3}
    for count in (0, 1, 63, 64, 65):
        assert len(spread(refs[:count], 64)) == min(count, 64)
