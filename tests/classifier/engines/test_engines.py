"""The compiled graph, against Keras's own functions, on photographs and pretrained weights."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.engines import built, decoded, engine_of, photographs, row_distance
from support.optional import optional

from classifier.base.families import resolve_application
from classifier.engines import limit_threads, run_padded
from featurestore.errors import UsageError

keras = optional("keras")


@pytest.mark.parametrize(
    "name, side",
    [
        ("VGG16", 180),
        ("MobileNetV2", 160),
        ("DenseNet121", 64),
        ("ResNet50", 64),
        ("EfficientNetB0", 64),
    ],
)
def test_features_are_the_bases_own(name, side):
    import importlib

    base = built(name, side)
    images = decoded(base.image_size)
    module = importlib.import_module(f"keras.applications.{resolve_application(name).module}")
    truth = base.model(module.preprocess_input(images.astype(np.float32)), training=False)
    features = run_padded(engine_of(base), images)
    assert features.dtype == np.float32 and features.shape == (6, *base.feature_shape)
    assert row_distance(features, truth) < 1e-5


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_pooling(pooling):
    base = built("MobileNetV2", 96, pooling=pooling)
    images = decoded(base.image_size)[:4]
    maps = base.model(images / np.float32(127.5) - 1, training=False).numpy()
    truth = maps.mean((1, 2)) if pooling == "avg" else maps.max((1, 2))
    engine = engine_of(base)
    assert engine.feature_shape == (1280,)
    assert row_distance(engine(images), truth) < 1e-5


def test_features_are_near_those_of_the_textbook_loop(tmp_path):
    for number, data in enumerate(photographs()):
        (tmp_path / f"{number}.jpg").write_bytes(data)
    base = built("VGG16", 180)
    dataset = keras.utils.image_dataset_from_directory(
        tmp_path, labels=None, image_size=(180, 180), batch_size=6, shuffle=False, verbose=False
    )
    batch = next(iter(dataset))
    theirs = base.model(keras.applications.vgg16.preprocess_input(batch), training=False)
    theirs = theirs.numpy().reshape(6, -1)
    ours = run_padded(engine_of(base), decoded((180, 180))).reshape(6, -1)
    cosine = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert cosine.min() >= 0.999


@pytest.fixture(scope="module")
def engine():
    return engine_of(built("MobileNet", 32), batch_size=4)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 9])
def test_padding_changes_nothing(engine, count):
    images = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3)).astype(np.uint8)
    whole = run_padded(engine, images)
    assert row_distance(run_padded(engine, images[:count]), whole[:count]) < 1e-6 if count else True
    assert run_padded(engine, images[:count]).shape == (count, 1, 1, 1024)


def test_several_threads_at_once(engine):
    batches = np.random.default_rng(1).integers(0, 256, (12, 4, 32, 32, 3)).astype(np.uint8)
    alone = [engine(batch) for batch in batches]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(engine, batches))
    assert max(map(row_distance, together, alone)) < 1e-6


def test_engine_says_how_it_computes(engine):
    numerics = engine.numerics
    assert (numerics.engine, numerics.precision) == ("tensorflow", "float32")
    assert set(numerics.versions) == {"tensorflow", "keras", "numpy"}
    assert "simplejpeg-" in numerics.decoder


def test_wrong_batches_are_refused(engine):
    with pytest.raises(ValueError, match="takes uint8"):
        engine(np.zeros((3, 32, 32, 3), np.uint8))
    with pytest.raises(UsageError, match="--batch_size"):
        engine_of(built("MobileNet", 32), batch_size=0)


def test_limiting_threads_after_the_start_is_tolerated(engine):
    assert limit_threads(1) in (True, False)
