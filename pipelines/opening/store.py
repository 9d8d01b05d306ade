"""Finds or makes the store of a run: the base, the engine, the spec, the probes."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from classifier.base.build import FrozenBase, build_base
from classifier.base.stored import save_base
from classifier.engines import EngineChoice, StoredBase
from classifier.engines.hardware import this_machine
from classifier.engines.options import for_stored
from classifier.engines.probes import PROBES, require_numerics, synthetic_images, write_probes
from classifier.engines.tensorflow import limit_threads
from classifier.pixels.views import Views
from classifier.runtime import import_keras
from featurestore import layout
from featurestore.errors import SpecMismatch, UsageError, cannot_write
from featurestore.io.cores import cores
from featurestore.io.storage import Storage
from featurestore.spec import PixelSpec, StoreSpec
from featurestore.store import FeatureStore, create_store, open_store
from pipelines.extraction.worker import shared_engine
from pipelines.opening.engine import Chosen, choose_engine
from pipelines.opening.sample import decoded_images, spread
from pipelines.options import ExtractOptions, WorkerSettings
from pipelines.planning.listing import Listing

# Marks a base with other weights than the ImageNet ones, which could not be downloaded, so that no
# run on your own images uses it.
PACKAGED = "+packaged"


def join_store(
    options: ExtractOptions, storage: Storage, listing: Listing, say: Callable[[str], None]
) -> tuple[FeatureStore, Chosen]:
    """Opens the store of a run, or creates it.

    Args:
      options: of the run.
      storage: of the output.
      listing: of the input, whose first images become the probe images.
      say: shows one line to the user.

    Returns:
      (the store, the engine that every worker of the run uses).

    Raises:
      SpecMismatch: when the store holds other features, or this machine computes them differently.
    """
    existing = existing_store(storage)
    digest = options.base.digest
    requests = {digest} if options.inputs else {digest, digest + PACKAGED}
    chosen = None
    if existing and existing.spec.base.request in requests and _has_model(existing):
        # The store holds the base, which need not be downloaded or built again.
        height_width = options.base.image_size or existing.spec.pixels.image_size
        wanted = dataclasses.replace(
            existing.spec,
            pixels=PixelSpec(height_width, **options.pixels),
            dtype=choose_dtype(options.dtype, existing.spec.feature_shape),
            **_views_of(options),
        )
        existing.spec.require_same(wanted, f"the store at {existing.url}")
        store = existing
    else:
        store, chosen = _with_base(options, storage, existing, listing, say)
    if chosen is None or chosen.choice.numerics.hash != store.spec.numerics.hash:
        chosen = _chosen_by_store(options, store)
    say(chosen.line)
    difference = _check_numerics(options, store, listing, chosen)
    if difference is not None:
        say(
            "this machine computes with other numerics than the store's; probe images agree within "
            f"{difference:.1e}"
        )
    return store, chosen


def _with_base(
    options: ExtractOptions,
    storage: Storage,
    existing: FeatureStore | None,
    listing: Listing,
    say: Callable[[str], None],
) -> tuple[FeatureStore, Chosen | None]:
    """Builds the base, and compares it with the existing store or creates one."""
    import_keras()
    # Must precede the first variable: TensorFlow would take all of a GPU's memory from the workers.
    limit_threads(cores(), cores())
    base = build_base(options.base, allow_packaged=not options.inputs)
    for note in base.notes:
        say(note)
    if existing is None:
        return _create(options, storage, base, listing)
    wanted = make_spec(options, base)
    existing.spec.require_same(wanted, f"the store at {existing.url}")
    if not _has_model(existing):
        _write_model(storage, base, wanted)
    return existing, None


def _create(
    options: ExtractOptions, storage: Storage, base: FrozenBase, listing: Listing
) -> tuple[FeatureStore, Chosen]:
    """Creates the store, or opens the one that another job created meanwhile."""
    spec = make_spec(options, base)
    # Refuses views that cannot be made of images of this size.
    Views.of(spec)

    def sample(count: int) -> np.ndarray:
        # Draws a quarter more than needed, since some may be bad.
        refs = spread(listing.again(), count + count // 4)
        return decoded_images(refs, count, spec.pixels, options.storage_options)

    stored = StoredBase(storage, spec, options.base.trust_model, base.model)
    chosen = choose_engine(options, stored, sample, this_machine())
    # The spec is written last and exclusively, so that a visible store has its base.
    _write_model(storage, base, spec)
    if chosen.quantised:
        storage.write(layout.quantised_file(chosen.choice.model), chosen.quantised)
    spec = dataclasses.replace(spec, numerics=chosen.choice.numerics)
    return create_store(storage, spec), chosen


def _chosen_by_store(options: ExtractOptions, store: FeatureStore) -> Chosen:
    """Keeps the engine of an existing store, unless the flags or this machine need another."""
    choice, reason = for_stored(store.spec.numerics, this_machine(), options.engine)
    return Chosen.of(choice, reason or "the store's own")


def _check_numerics(
    options: ExtractOptions, store: FeatureStore, listing: Listing, chosen: Chosen
) -> float | None:
    """Makes the probes of a new store; refuses numerics that disagree with those of an old one.

    Returns:
      By how much the numerics differ from the store's; None when they are the same.
    """
    has_probes = store.storage.exists(layout.PROBES)
    is_own = chosen.choice.numerics.hash == store.spec.numerics.hash
    if has_probes and is_own:
        return None
    if not has_probes and not is_own:
        raise SpecMismatch(
            f"the store at {store.url} has no probe images yet, which would show whether "
            f"{chosen.choice.label} agrees with its {store.spec.numerics.label}; run once with its "
            "own engine, precision and versions to make them"
        )
    settings = WorkerSettings(
        store.storage.url,
        store.storage.options,
        batch_size=options.chunks.batch_size,
        trust_model=options.base.trust_model,
        engine=chosen.choice,
    )
    engine = shared_engine(store, settings)
    if not has_probes:
        refs = listing.head[: 4 * PROBES]
        pixels = decoded_images(refs, PROBES, store.spec.pixels, options.storage_options)
        if not len(pixels):
            pixels = synthetic_images(PROBES, store.spec.pixels.image_size)
        if write_probes(store.storage, engine, pixels):
            return None
    try:
        return require_numerics(store, engine)
    except SpecMismatch as error:
        if chosen.choice == EngineChoice.of(store.spec.numerics):
            raise
        reason = chosen.record["reason"]
        raise SpecMismatch(f"{error} (not the store's own engine: {reason})") from error


def choose_dtype(asked: str, feature_shape: tuple[int, ...]) -> str:
    """Returns the stored dtype; by default float16 for maps and float32 for embeddings."""
    if asked != "auto":
        return asked
    return "float16" if len(feature_shape) > 1 else "float32"


def make_spec(options: ExtractOptions, base: FrozenBase) -> StoreSpec:
    """Returns the spec of the features that the options and the base give."""
    request = options.base.digest
    if options.base.application and base.spec.weights != options.base.weights == "imagenet":
        request += PACKAGED
    return StoreSpec(
        base=dataclasses.replace(base.spec, request=request),
        pixels=PixelSpec(base.image_size, **options.pixels),
        feature_shape=base.feature_shape,
        dtype=choose_dtype(options.dtype, base.feature_shape),
        numerics=EngineChoice().numerics,
        **_views_of(options),
    )


def _views_of(options: ExtractOptions) -> dict[str, Any]:
    """Returns the fields of a spec that define the views."""
    return {**vars(options.views), "seed": options.seed}


def existing_store(storage: Storage) -> FeatureStore | None:
    """Opens the store if it exists.

    Raises:
      UsageError: when the output cannot be reached.
    """
    try:
        found = storage.exists(layout.SPEC)
    except (OSError, ValueError) as error:
        raise UsageError(f"--output: cannot reach {storage.public_url!r}: {error}") from error
    return open_store(storage.url, storage.options) if found else None


def _has_model(store: FeatureStore) -> bool:
    return store.storage.exists(layout.model_file(store.spec.base.weights_hash))


def _write_model(storage: Storage, base: FrozenBase, spec: StoreSpec) -> None:
    with tempfile.TemporaryDirectory(prefix="hoarfrost-") as folder:
        path = Path(folder) / "base.keras"
        save_base(base, path)
        try:
            storage.write(layout.model_file(spec.base.weights_hash), path.read_bytes())
        except OSError as error:
            raise cannot_write("--output", storage.public_url, error) from error
