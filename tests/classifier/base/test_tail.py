"""The tail of a base behind a bottleneck computes what the whole base computes."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.optional import optional

from classifier import bases
from classifier.base import graph, layers, unfreezing
from classifier.base.tail import bottlenecks, nearest_bottleneck, tail
from featurestore.errors import UsageError

keras = optional("keras")
SIDE = 32


@pytest.fixture(scope="module")
def mobilenet():
    keras.utils.set_random_seed(0)
    return keras.applications.MobileNetV2(
        weights=None, include_top=False, input_shape=(SIDE, SIDE, 3)
    )


def images(count=2, side=SIDE):
    return np.random.default_rng(0).uniform(-1, 1, (count, side, side, 3)).astype(np.float32)


def assert_same(base, path, side=SIDE):
    """The prefix to `path`, then the tail behind it, gives what the base gives."""
    prefix = graph.cut(base, layers.find_layer(base, path, "the base"), (side, side))
    rest = tail(base, path)
    found = rest(prefix(images(side=side), training=False), training=False)
    wanted = base(images(side=side), training=False)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert {id(weight) for weight in rest.weights} <= {id(weight) for weight in base.weights}


def test_tails_of_a_residual_network(mobilenet):
    found = bottlenecks(mobilenet)
    assert len(found) == 73 and found[-1] == "out_relu"
    for path in ("Conv1", "block_6_depthwise_relu", "block_14_add", "Conv_1_bn"):
        assert_same(mobilenet, path)
    assert not any(path.startswith("block_15") and path != "block_15_add" for path in found)


def test_the_error_names_the_nearest_bottleneck(mobilenet):
    assert nearest_bottleneck(mobilenet, "block_15_expand_relu") == "block_14_add"
    with pytest.raises(UsageError, match="cut at 'block_14_add', the nearest one before it"):
        tail(mobilenet, "block_15_expand_relu")
    with pytest.raises(UsageError, match="nothing of the base follows 'out_relu'"):
        tail(mobilenet, "out_relu")
    with pytest.raises(UsageError, match="no layer 'block_14_ad'.*did you mean block_14_add"):
        tail(mobilenet, "block_14_ad")


@pytest.mark.parametrize("sequential", [False, True])
def test_tails_of_nested_networks(mobilenet, sequential):
    keras.utils.set_random_seed(0)
    parts = [
        keras.layers.Rescaling(2.0, name="rescale"),
        mobilenet,
        keras.layers.Conv2D(4, 1, name="last"),
    ]
    image = keras.Input((SIDE, SIDE, 3))
    if sequential:
        outer = keras.Sequential([image, *parts])
    else:
        x = image
        for part in parts:
            x = part(x)
        outer = keras.Model(image, x)
    inner = f"{mobilenet.name}/block_14_add"
    assert {inner, "rescale", mobilenet.name} < set(bottlenecks(outer))
    for path in ("rescale", inner, mobilenet.name):
        assert_same(outer, path)


def test_a_layer_that_is_called_twice_is_no_bottleneck():
    image = keras.Input((SIDE, SIDE, 3))
    twice = keras.layers.Conv2D(3, 1, name="twice")
    outputs = keras.layers.ReLU(name="end")(twice(twice(image)))
    assert bottlenecks(keras.Model(image, outputs)) == ["end"]


@settings(derandomize=True, max_examples=25, deadline=None)
@given(st.lists(st.sets(st.integers(0, 9), min_size=1, max_size=3), min_size=1, max_size=9))
def test_bottlenecks_are_the_layers_that_no_path_avoids(wiring):
    image = keras.Input((2, 2, 1))
    tensors, names, before = [image], [None], [set()]
    for number, sources in enumerate(wiring):
        sources = {source % len(tensors) for source in sources}
        taken = [tensors[source] for source in sorted(sources)]
        layer = keras.layers.Add if len(taken) > 1 else keras.layers.ReLU
        names.append(f"node{number}")
        tensors.append(layer(name=names[-1])(taken if len(taken) > 1 else taken[0]))
        before.append(sources)
    model = keras.Model(image, tensors[-1])

    def reaches(without):
        reached = {len(names) - 1} - {without}
        for node in range(len(names) - 1, -1, -1):
            reached |= before[node] - {without} if node in reached else set()
        return 0 in reached

    wanted = [names[node] for node in range(1, len(names)) if not reaches(node)]
    assert bottlenecks(model) == wanted


def test_unfreezing_by_number_name_and_all(mobilenet):
    known = [path for path, _ in unfreezing.leaves(mobilenet)]
    assert unfreezing.unfrozen(mobilenet, "all", "it") == known
    assert unfreezing.unfrozen(mobilenet, "0", "it") == []
    last = unfreezing.unfrozen(mobilenet, "18", "it")
    assert last[0] == "block_15_expand_relu"
    assert last == unfreezing.unfrozen(mobilenet, "block_15_expand_relu", "it")
    with pytest.raises(UsageError, match="--unfreeze 155: it has 154 layers"):
        unfreezing.unfrozen(mobilenet, "155", "it")
    with pytest.raises(UsageError, match="--unfreeze: it has no layer 'Conv_2'"):
        unfreezing.unfrozen(mobilenet, "Conv_2", "it")


def test_the_breeds_recipe_trains_as_many_parameters_as_its_tutorial(mobilenet):
    last = unfreezing.unfrozen(mobilenet, "block_15_expand_relu", "it")
    assert unfreezing.latest_cut(mobilenet, last) == "block_14_add"
    unfreezing.set_trainable(mobilenet, last)
    head = 1280 * 120 + 120
    trained = sum(int(np.prod(weight.shape)) for weight in mobilenet.trainable_weights)
    assert trained + head == 1_204_280
    rest = tail(mobilenet, "block_14_add")
    assert sum(int(np.prod(weight.shape)) for weight in rest.trainable_weights) == trained


def test_a_nested_network_is_unfrozen_layer_by_layer(mobilenet):
    image = keras.Input((SIDE, SIDE, 3))
    outer = keras.Model(image, keras.layers.Conv2D(4, 1, name="last")(mobilenet(image)))
    last = unfreezing.unfrozen(outer, "3", "it")
    assert last == [f"{mobilenet.name}/Conv_1_bn", f"{mobilenet.name}/out_relu", "last"]
    assert len(unfreezing.unfrozen(outer, mobilenet.name, "it")) == 155
    assert unfreezing.latest_cut(outer, last) == f"{mobilenet.name}/Conv_1"
    # No bottleneck lies before a layer that works on the pixels themselves.
    assert unfreezing.latest_cut(outer, unfreezing.unfrozen(outer, "all", "it")) is None


def test_the_command_marks_bottlenecks_and_counts_what_is_trained(capsys):
    assert bases.run(["VGG16", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["layers"]}
    assert rows["block5_conv1"]["bottleneck"] and not rows["input_layer"]["bottleneck"]
    assert (rows["block5_conv1"]["unfreeze"], rows["block5_conv1"]["trained"]) == (4, 7_079_424)
    assert rows["input_layer"]["trained"] == 14_714_688
    assert bases.run(["VGG16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[-3:] == ["bottleneck", "unfreeze", "trained"]
    assert "18 bottlenecks" in lines[-1]
