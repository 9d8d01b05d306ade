"""Heads: the flag that names one, and the network it becomes."""

import numpy as np
import pytest

from classifier.heads.head import Moments, dense_head, outputs_for
from classifier.heads.headgraph import HeadGraph
from classifier.heads.options import Trial
from classifier.heads.spec import HeadSpec, parse_head
from classifier.heads.stacked.stack import initial_weights
from featurestore.errors import UsageError


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("linear", HeadSpec()),
        ("mlp:1", HeadSpec("mlp", 1)),
        ("mlp:256", HeadSpec("mlp", 256)),
        ("mlp:256:relu:dropout=0.5", HeadSpec("mlp", 256, "relu", 0.5)),
        ("mlp:256:dropout=0.5:relu", HeadSpec("mlp", 256, "relu", 0.5)),
        ("mlp:256:linear", HeadSpec("mlp", 256, "linear")),
        ("mlp:64:dropout=0.25", HeadSpec("mlp", 64, "relu", 0.25)),
    ],
)
def test_spelling_is_read_and_round_trips(text, spec):
    assert parse_head(text) == spec
    assert parse_head(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("linaer", r"unknown value 'linaer'; did you mean linear"),
        ("", r"unknown value ''; choose from knn:K, linear, logistic, mlp:UNITS, ridge"),
        ("linear:relu", r"unknown value 'relu'; choose from dropout=P"),
        ("linear:dropout=2", "dropout must be from 0 to below 1, got 2.0"),
        ("linear:dropout=0.1:dropout=0.2", "the dropout is given twice"),
        ("mlp", r"mlp needs its number of units, such as mlp:256, got 'mlp'"),
        ("mlp:0", r"mlp needs its number of units"),
        ("mlp:-3", r"mlp needs its number of units"),
        ("mlp:8:rleu", r"unknown value 'rleu'; did you mean relu"),
        ("mlp:8:relu:relu", r"activation is given twice"),
        ("mlp:8:dropout=1", r"dropout must be from 0 to below 1, got 1.0"),
        ("mlp:8:dropout=nan", r"dropout must be from 0 to below 1, got nan"),
        ("mlp:8:dropout=half", r"dropout must be a number, got 'half'"),
        ("mlp:8:drop=0.5", r"unknown value 'drop'"),
        ("mlp:9999999", r"units must be 1 to 1048576"),
    ],
)
def test_wrong_spelling_is_one_line(text, message):
    with pytest.raises(UsageError, match=message) as error:
        parse_head(text)
    assert "\n" not in str(error.value)


def test_slug_is_a_plain_file_name():
    assert parse_head("mlp:256:relu:dropout=0.5").slug == "mlp-256-relu-dropout0.5"


@pytest.mark.parametrize(("count", "units"), [(2, 1), (3, 3), (10, 10)])
def test_two_classes_share_one_unit(count, units):
    assert outputs_for([str(i) for i in range(count)]) == units


@pytest.mark.parametrize("classes", [[], ["cat"]])
def test_fewer_than_two_classes_are_refused(classes):
    message = rf"at least 2 classes, the training rows have {len(classes)}"
    with pytest.raises(UsageError, match=message):
        outputs_for(classes)


@pytest.mark.parametrize("shape", [(7,), (2, 3, 4)])
@pytest.mark.parametrize("n_outputs", [1, 3])
@pytest.mark.parametrize("head", ["linear", "mlp:5:dropout=0.5"])
def test_output_is_probabilities(head, shape, n_outputs):
    spec = parse_head(head)
    weights = initial_weights(Trial(spec, 0.1), int(np.prod(shape)), n_outputs)
    features = np.random.default_rng(0).normal(size=(6, *shape)).astype(np.float16)
    found = dense_head(spec, shape, weights)(features)
    assert found.shape == (6, n_outputs) and found.dtype == np.float32
    assert ((found >= 0) & (found <= 1)).all()
    if n_outputs > 1:
        np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)


def test_logits_are_below_the_probabilities():
    head = dense_head(parse_head("linear"), (3,), (np.full((3, 1), 2.0), np.zeros(1)))
    features = np.ones((2, 3), np.float32)
    np.testing.assert_allclose(head.logits(features), 6.0)
    np.testing.assert_allclose(head(features), 1 / (1 + np.exp(-6)), rtol=1e-6)


@pytest.mark.parametrize("batch", [1, 4, 5, 6, 10])
def test_moments_do_not_depend_on_batches(batch):
    features = np.random.default_rng(0).normal(3, 2, size=(10, 2, 4)).astype(np.float32)
    moments = Moments(4)
    for start in range(0, 10, batch):
        moments.update(features[start : start + batch])
    moments.update(features[:0])
    standard = moments.standard()
    np.testing.assert_allclose(standard.mean, features.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(standard.deviation, features.std((0, 1)), rtol=1e-5)


def test_a_channel_that_never_moves_is_not_blown_up():
    moments = Moments(2)
    moments.update(np.array([[0.0, 7.0], [2.0, 7.0]]))
    assert moments.standard().deviation[1] == pytest.approx(0.1 * np.sqrt(0.5))
    still = Moments(2)
    still.update(np.full((3, 2), 4.0))
    np.testing.assert_array_equal(still.standard().deviation, [1.0, 1.0])


def test_standardisation_travels_in_the_saved_head():
    moments = Moments(3)
    features = np.random.default_rng(0).normal(5, 3, size=(20, 3)).astype(np.float32)
    moments.update(features)
    weights = np.eye(3), np.zeros(3)
    head = dense_head(parse_head("linear"), (3,), weights, standard=moments.standard())
    scaled = head.logits(features)
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std(0), 1, rtol=1e-4)
    again = HeadGraph.from_bytes(head.to_bytes())
    np.testing.assert_array_equal(head(features), again(features))
