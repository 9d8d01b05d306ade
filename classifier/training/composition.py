"""The network of a fine-tuning: the tail of a run's base behind a store's cut, then its head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from classifier.base import families, graph, layers, unfreezing
from classifier.base.preprocess import pool_graph, preprocess_graph
from classifier.base.stored import whole_only
from classifier.base.tail import steps, tail
from classifier.base.weights import weights_hash
from classifier.engines import StoredBase
from classifier.heads.head import logits_model
from classifier.heads.network.fit import TAIL
from classifier.runs.run import FINETUNED, Run
from classifier.runtime import import_keras
from featurestore.errors import UsageError

if TYPE_CHECKING:
    import keras

    from featurestore import FeatureStore


class Composed(NamedTuple):
    """A head that holds layers of the base.

    Attributes:
      head: float32 (n, *feature_shape) of the store to float32 (n, outputs) probabilities.
      cut: the layer behind which it begins, or ``pixels``.
      unfrozen: paths of the layers to train.
      layers: how many layers of the base it holds.
    """

    head: keras.Model
    cut: str
    unfrozen: tuple[str, ...]
    layers: int

    @property
    def trained(self) -> int:
        """How many numbers of the base are trained."""
        return unfreezing.count(self.head.get_layer(TAIL).trainable_weights)


def compose(
    run: Run, head: keras.Model, store: FeatureStore, unfreeze: str, trust_model: bool = False
) -> Composed:
    """Joins the part of a base behind a store's cut with a head, and decides what is trained.

    A head that holds layers of the base already is trained on, on a store like its own.

    Args:
      run: that trained the head.
      head: from the run's features to probabilities.
      store: of pixels, or cut at a bottleneck of the run's base.
      unfreeze: the layers to train, as `unfreezing.unfrozen` takes them.
      trust_model: whether Lambda layers of the base may run.

    Raises:
      UsageError: for a store of other images or of another base, for one that is cut at no
        bottleneck, and for one that is cut behind a layer to train.
    """
    _require_same_pixels(run, store)
    if FINETUNED in run.config.options:
        return _continued(run, head, store, unfreeze)
    _require_one_tap(run)
    base = StoredBase(run.storage, run.spec, trust_model).load()
    if (kind := whole_only(base)) or not run.spec.base.weights_hash:
        what = f"is {kind}" if kind else "has no layers"
        raise UsageError(
            f"--run: the base {run.spec.base.model} {what}, so none of its layers can be trained; "
            "train a head on features of a keras.applications name or a .keras file"
        )
    names = _real_names(run, base)
    paths = unfreezing.unfrozen(base, unfreeze, run.spec.base.model, names)
    cut = "" if store.spec.is_pixels else _cut_of(run, base, store, names)
    upstream = _upstream(base, cut)
    _require_in_tail(base, paths, upstream, store, unfreeze)
    unfreezing.set_trainable(base, paths)
    keras = import_keras()
    inputs = keras.Input(store.spec.feature_shape, dtype="float32")
    x = tail(base, cut)(inputs) if cut else base(_prepared(run, base, store)(inputs))
    x = pool_graph(run.spec.base.pooling, len(base.output_shape))(x)
    part = keras.Model(inputs, x, name=TAIL)
    features = keras.Input(store.spec.feature_shape, dtype="float32", name="features")
    last = head.get_layer("probabilities").activation
    logits = logits_model(head)(part(features, training=False))
    outputs = keras.layers.Activation(last, name="probabilities")(logits)
    held = [path for path, _ in unfreezing.leaves(base) if path not in upstream]
    return Composed(
        keras.Model(features, outputs, name="head"), cut or "pixels", tuple(paths), len(held)
    )


def _require_one_tap(run: Run) -> None:
    if taps := run.spec.base.taps:
        raise UsageError(
            f"--run: its head takes {len(taps)} taps side by side ({run.spec.base.tap}), and only "
            "a base of one can be trained further; begin with the run of one tap"
        )


def _continued(run: Run, head: keras.Model, store: FeatureStore, unfreeze: str) -> Composed:
    fix = f"give a store like {run.config.store_url}, or begin with the run that was not fine-tuned"
    run.spec.require_same(store.spec, f"the head of {run.url}, which was fine-tuned,", fix)
    part = head.get_layer(TAIL)
    paths = unfreezing.unfrozen(part, unfreeze, f"the head of {run.url}")
    unfreezing.set_trainable(part, paths)
    cut = run.config.options[FINETUNED]["cut"]
    return Composed(head, cut, tuple(paths), len(unfreezing.leaves(part)))


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
    base: keras.Model, paths: list[str], upstream: set[str], store: FeatureStore, unfreeze: str
) -> None:
    """Refuses to train a layer whose output the store already holds."""
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
        f"{store.spec.base.layer!r}; give a store {place}, or --unfreeze {most} at most"
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
