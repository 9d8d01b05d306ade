"""A machine prepares a base once: later commands start no TensorFlow for it."""

import dataclasses
import subprocess
import sys

import pytest
from support.commands import ROOT
from support.extraction import SMALL, assert_same_rows, run
from support.images import write_images

from classifier.base.build import build_base
from classifier.base.prepared import keep_base, kept_base
from classifier.base.request import BaseRequest
from classifier.cachefolder import CACHE_VARIABLE
from classifier.engines.hardware import this_machine

LOADED = """
import runpy, sys
sys.argv = ["extract", *sys.argv[1:]]
try:
    runpy.run_module("pipelines.extract", run_name="__main__", alter_sys=True)
finally:
    print(*{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def built():
    request = BaseRequest(model="MobileNetV2", weights="none", image_size=(32, 32), pooling="avg")
    return request, build_base(request)


def test_a_kept_base_is_the_built_one(built, cache):
    request, base = built
    assert kept_base(request) is None
    prepared = keep_base(base, request)
    kept = kept_base(request)
    assert kept.data == prepared.data and kept.model is None and prepared.model is base.model
    for name in ("spec", "image_size", "feature_shape", "notes"):
        assert getattr(kept, name) == getattr(base, name)


def test_another_request_finds_nothing(built, cache):
    request, base = built
    keep_base(base, request)
    assert kept_base(request, allow_packaged=True) is None
    for changes in ({"seed": 1}, {"pooling": "none"}, {"trust_model": True}):
        assert kept_base(dataclasses.replace(request, **changes)) is None


def test_damage_costs_time_only(built, cache):
    request, base = built
    keep_base(base, request)
    (file,) = cache.rglob("*.zip")
    data = file.read_bytes()
    for damaged in (b"", data[:-100], data[:5000] + bytes([data[5000] ^ 1]) + data[5001:]):
        file.write_bytes(damaged)
        assert kept_base(request) is None
    keep_base(base, request)
    assert kept_base(request) is not None


def test_changed_weights_and_releases_are_noticed(built, cache, tmp_path, monkeypatch):
    _, base = built
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    weights = tmp_path / "keras" / "models" / "mobilenet_v2.h5"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"first")
    request = BaseRequest(model="MobileNetV2")
    keep_base(base, request)
    assert kept_base(request) is not None
    weights.write_bytes(b"others")
    assert kept_base(request) is None
    keep_base(base, request)
    monkeypatch.setattr("classifier.base.prepared.version", lambda name: "0")
    assert kept_base(request) is None


def test_the_second_use_of_a_base_imports_neither_tensorflow_nor_what_no_extraction_needs(
    cache, tmp_path, monkeypatch
):
    if "openvino" not in this_machine().installed:
        pytest.skip("only OpenVINO runs a base without TensorFlow")
    # An engine that another test has loaded would leave nothing in this test's cache.
    monkeypatch.setattr("pipelines.extraction.worker._ENGINES", {})
    monkeypatch.setattr("pipelines.extraction.worker._SHARED", {})
    write_images(tmp_path / "photos", 12)
    arguments = ("--input", tmp_path / "photos", *SMALL, "--engine", "openvino", "--output")
    first = run(*arguments, tmp_path / "first")
    command = [sys.executable, "-c", LOADED, *map(str, arguments), "second"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), CACHE_VARIABLE: str(cache), "PATH": "", "HOME": "/"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stderr.split())
    assert {"apache_beam", "openvino", "pyarrow"} < loaded
    assert not {"tensorflow", "keras", "sklearn", "scipy", "mpl_toolkits"} & loaded
    assert not {"pandas", "pymongo", "boto3", "apitools"} & loaded
    from featurestore import open_store

    assert_same_rows(first.store, open_store(str(tmp_path / "second")))
