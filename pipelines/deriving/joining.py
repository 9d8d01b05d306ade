"""Finds or makes the store of a derivation, with the spec that a direct extraction would give."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass

from classifier.engines import StoredBase, run_padded
from classifier.engines.engine import relative_distances
from classifier.engines.probes import read_probes
from classifier.engines.tail import layer_of, require_maps
from featurestore.errors import RunFailed, UsageError
from featurestore.io.storage import Storage
from featurestore.store import FeatureStore
from pipelines.deriving.source import StoreSamples, options_like, require_colours
from pipelines.deriving.worker import deriving_engine
from pipelines.opening.engine import Chosen
from pipelines.opening.existing import existing_store
from pipelines.opening.store import join_store, make_spec, prepared_base, write_model
from pipelines.options import ExtractOptions
from pipelines.settings import DeriveSettings

# A tail that gives other features than the whole base by more than this is a fault of ours: maps
# rounded to float16, and a low precision, change them far less.
MOST_DIFFERENCE = 0.1


@dataclass(frozen=True)
class Joined:
    """A store that is ready to take derived features.

    Attributes:
      store: the derived one.
      options: completed by what the source decides.
      chosen: engine and precision.
      layer: the path, in the store's base, of the layer whose maps the source holds; "" for pixels.
    """

    store: FeatureStore
    options: ExtractOptions
    chosen: Chosen
    layer: str = ""


def join_derived(
    options: ExtractOptions, source: FeatureStore, say: Callable[[str], None]
) -> Joined:
    """Opens the store of a derivation, or creates it.

    Args:
      options: of the run.
      source: the store whose rows are taken.
      say: shows one line to the user.

    Raises:
      UsageError: when the source's rows cannot become the features that are asked for.
      SpecMismatch: when the output holds other features.
    """
    options = options_like(options, source)
    storage = Storage(options.output, options.storage_options)
    existing = existing_store(storage)
    # A store that cannot be derived is not created.
    layer = "" if existing else _drafted_layer(options, source)
    store, chosen = join_store(options, storage, StoreSamples(source), say)
    assert chosen is not None
    if existing:
        layer = _layer(StoredBase(storage, store.spec, options.base.trust_model), source)
    joined = Joined(store, options, chosen, layer)
    if not source.spec.is_pixels:
        say(_compared(joined, source))
    return joined


def _drafted_layer(options: ExtractOptions, source: FeatureStore) -> str:
    """Returns the layer of a store that does not exist yet."""
    base = prepared_base(options.base, allow_packaged=False)
    spec = make_spec(options, base)
    with tempfile.TemporaryDirectory(prefix="hoarfrost-") as folder:
        draft = Storage(folder)
        write_model(draft, base, spec)
        return _layer(StoredBase(draft, spec, options.base.trust_model, base.model), source)


def _layer(target: StoredBase, source: FeatureStore) -> str:
    """Returns the path, in a base, of the layer whose maps a store holds; "" for pixels.

    Raises:
      UsageError: when the base cannot go on from the store's rows.
    """
    spec = target.spec
    if source.spec.is_pixels:
        if source.spec.feature_shape[-1] == 1 and not spec.is_pixels:
            require_colours(source.spec, target.load().input_shape[-1])
        return ""
    require_maps(source.spec, spec.base)
    layer = layer_of(target.load(), source.spec, spec.base.label)
    if not layer and spec.base.pooling == "none":
        raise UsageError(
            f"--input_store: {source.url} holds the maps of {spec.base.layer} already; give a "
            "later --layer, or --pooling avg or max"
        )
    return layer


def _compared(joined: Joined, source: FeatureStore) -> str:
    """Compares derived and direct features of the source's probe images; returns a line of it."""
    store = joined.store
    settings = DeriveSettings(
        store.storage.url,
        store.storage.options,
        batch_size=joined.options.chunks.batch_size,
        trust_model=joined.options.base.trust_model,
        engine=joined.chosen.choice,
        layer=joined.layer,
    )
    engine = deriving_engine(store, source.spec, settings)
    _, maps = read_probes(source.storage, source.spec)
    stored = maps.reshape(-1, *source.spec.feature_shape).astype(source.spec.dtype)
    _, direct = read_probes(store.storage, store.spec)
    found = float(relative_distances(run_padded(engine, stored), direct).max())
    if not found <= MOST_DIFFERENCE:
        raise RunFailed(
            f"features derived from {source.url} differ by {found:.2g} from those of the whole "
            "base on its probe images; please report this with both store.json"
        )
    return (
        f"derived from {engine.numerics.derived}: on {len(direct)} probe images, at most "
        f"{found:.1e} from a direct extraction (row-wise, relative)"
    )
