"""The network of a fine-tuning: the tail of a run's base behind a store's cut, then its head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from classifier.base import families, graph, layers, unfreezing
from classifier.base.preprocess import pool_graph, preprocess_graph
from classifier.base.tail import steps, tail
from classifier.base.weights import weights_hash
from classifier.heads.head import logits_model
from classifier.runtime import import_keras
from featurestore.errors import UsageError

if TYPE_CHECKING:
    import keras

    from classifier.runs.run import Run
    from featurestore import FeatureStore

# The options of a run that was fine-tuned have this key.
FINETUNED = "finetuned"


class Composed(NamedTuple):
    """A head that holds layers of the base.

    Attributes:
      head: float32 (n, *feature_shape) of the store to float32 (n, outputs) probabilities.
      cut: the layer where it begins; "" for pixels.
      unfrozen: paths of the layers to train.
      trained: numbers in them.
      layers: how many layers of the base it holds.
    """

    head: keras.Model
    cut: str
    unfrozen: tuple[str, ...]
    trained: int
    layers: int


def compose(
    run: Run, base: keras.Model, head: keras.Model, store: FeatureStore, unfreeze: str
) -> Composed:
    """Joins the part of a base behind a store's cut with a head, and decides what is trained.

    The layers of the base compute as in inference: batch normalisation keeps its statistics.

    Args:
      run: that trained the head.
      base: the run's.
      head: from the base's features to probabilities.
      store: of pixels, or cut at a bottleneck of the base.
      unfreeze: the layers to train, as `unfreezing.unfrozen` takes them.

    Raises:
      UsageError: for a store of other images or of another base, for one that is cut at no
        bottleneck, and for one that is cut behind a layer to train.
    """
    if getattr(base, "packed_savedmodel", None) is not None:
        raise UsageError(
            f"--run: the base {run.spec.base.model} is a SavedModel, whose layers cannot be "
            "trained; extract with a .keras file of it"
        )
    _require_same_pixels(run, store)
    names = _real_names(run, base)
    paths = unfreezing.unfrozen(base, unfreeze, run.spec.base.model, names)
    cut = "" if store.spec.is_pixels else _cut_of(run, base, store, names)
    _require_in_tail(base, paths, cut, store, unfreeze)
    unfreezing.set_trainable(base, paths)
    keras = import_keras()
    features = keras.Input(store.spec.feature_shape, dtype="float32", name="features")
    rest = tail(base, cut) if cut else base
    x = features if cut else _prepared(run, base, store)(features)
    x = rest(x, training=False)
    x = pool_graph(run.spec.base.pooling, len(base.output_shape))(x)
    logits = logits_model(head)(x)
    last = head.get_layer("probabilities").activation
    outputs = keras.layers.Activation(last, name="probabilities")(logits)
    whole = keras.Model(features, outputs, name="head")
    held = [path for path, _ in unfreezing.leaves(base) if path not in _upstream(base, cut)]
    return Composed(whole, cut, tuple(paths), unfreezing.count(rest.trainable_weights), len(held))


def _require_same_pixels(run: Run, store: FeatureStore) -> None:
    ours, theirs = run.spec.pixels, store.spec.pixels
    if ours != theirs:
        raise UsageError(
            f"--store: {store.url} holds images as {theirs}, and the run at {run.url} takes them "
            f"as {ours}; extract the store with the same flags"
        )


def _real_names(run: Run, base: keras.Model) -> dict[str, str]:
    """Returns the outermost layer names as a store has them -> as they are in the loaded base."""
    if run.spec.base.model not in families.APPLICATIONS:
        return {}
    return {name: real for real, name in layers.canonical_names(base).items()}


def _cut_of(run: Run, base: keras.Model, store: FeatureStore, names: dict[str, str]) -> str:
    """Returns the path in the base where a store is cut; its arrays and graph must agree."""
    spec = store.spec.base
    other = (
        f"--store: {store.url} holds features of {spec.label} at {spec.layer!r}, which is no part "
        f"of the base of the run at {run.url}, {run.spec.base.label}"
    )
    if spec.pooling != "none" or spec.preprocess != run.spec.base.preprocess:
        raise UsageError(
            f"--store: {store.url} holds features with --pooling {spec.pooling} and --preprocess "
            f"{spec.preprocess}; a tail needs --pooling none and --preprocess "
            f"{run.spec.base.preprocess}, as the run has it"
        )
    path = layers.renamed(spec.layer, names)
    known = {known for known, *_ in layers.layer_paths(base)}
    if path not in known:
        raise UsageError(f"{other}; extract it with --layer one of its bottlenecks")
    found = layers.find_layer(base, path, run.spec.base.model)
    prefix = graph.cut(base, found, store.spec.pixels.image_size)
    if weights_hash(prefix) != spec.weights_hash:
        raise UsageError(
            f"{other}: the layers have other weights or settings; extract it with the --model and "
            "--weights of the run"
        )
    return path


def _upstream(base: keras.Model, cut: str) -> set[str]:
    """Returns the paths of the layers up to the cut; none for pixels."""
    order = [step.path for step in steps(base)]
    return set(order[: order.index(cut) + 1]) if cut else set()


def _require_in_tail(
    base: keras.Model, paths: list[str], cut: str, store: FeatureStore, unfreeze: str
) -> None:
    """Refuses to train a layer whose output the store already holds."""
    upstream = _upstream(base, cut)
    parts = dict(unfreezing.leaves(base))
    if not any(path in upstream and parts[path].weights for path in paths):
        return
    needed = unfreezing.latest_cut(base, paths)
    most = 0
    for path in reversed(parts):
        if path in upstream and parts[path].weights:
            break
        most += 1
    place = f"cut at --layer {needed}" if needed else "of --model pixels"
    raise UsageError(
        f"--unfreeze {unfreeze} begins at {paths[0]!r}, and {store.url} is cut behind it, at "
        f"{cut!r}; give a store {place}, or --unfreeze {most} at most"
    )


def _prepared(run: Run, base: keras.Model, store: FeatureStore) -> Any:
    """Returns the preprocessing between stored pixels and the base."""
    stored, taken = store.spec.feature_shape[-1], base.input_shape[-1]
    if stored == 1 and taken != 1:
        raise UsageError(
            f"--store: {store.url} holds grey pixels, and the base {run.spec.base.model} takes "
            f"{taken} channels; extract them with --channels 3"
        )
    # Stored grey pixels need no conversion.
    return preprocess_graph(run.spec.base.preprocess, taken if stored != 1 else 3)
