"""Finds or makes the store of a run: the base, the engine, the spec, the probes."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

from classifier.base.build import build_base
from classifier.base.pixels import pixel_base
from classifier.base.prepared import PreparedBase, keep_base, kept_base
from classifier.base.request import BaseRequest
from classifier.engines import EngineChoice, StoredBase
from classifier.engines.hardware import this_machine
from classifier.engines.options import for_base, for_stored
from classifier.engines.tensorflow import limit_threads
from classifier.pixels.views import Views
from classifier.runtime import import_keras
from featurestore import layout
from featurestore.errors import SpecMismatch, cannot_write
from featurestore.io.cores import cores
from featurestore.io.storage import Storage
from featurestore.numerics import UNDECIDED, Numerics
from featurestore.spec import PIXEL_DTYPE, BaseSpec, PixelSpec, StoreSpec
from featurestore.store import FeatureStore, create_store
from featurestore.taps import cut_hashes, taps_of
from pipelines.extraction.worker import share_engine
from pipelines.opening.engine import Chosen, choose_engine
from pipelines.opening.existing import existing_store
from pipelines.opening.sample import Samples
from pipelines.opening.settling import check_numerics, decided
from pipelines.options import ExtractOptions
from pipelines.settings import WorkerSettings

# Marks a base with other weights than the ImageNet ones, which could not be downloaded, so that no
# run on your own images uses it.
PACKAGED = "+packaged"


def join_store(
    options: ExtractOptions,
    storage: Storage,
    samples: Samples,
    say: Callable[[str], None],
    workers_choose: bool = False,
) -> tuple[FeatureStore, Chosen | None]:
    """Opens the store of a run, or creates it.

    Args:
      options: of the run.
      storage: of the output.
      samples: of the input, whose first images become the probe images.
      say: shows one line to the user.
      workers_choose: whether the base runs on other machines, which choose their engine.

    Returns:
      (the store, the engine that every worker of the run uses; None when workers choose).

    Raises:
      SpecMismatch: when the store holds other features, or this machine computes them differently.
    """
    existing = existing_store(storage)
    digest = options.base.digest
    requests = {digest} if options.inputs else {digest, digest + PACKAGED}
    chosen = None
    if existing and existing.spec.base.request in requests and _has_model(existing):
        # The store holds the base, which need not be downloaded or built again.
        height_width = options.base.asked_size or existing.spec.pixels.image_size
        wanted = dataclasses.replace(
            existing.spec,
            pixels=PixelSpec(height_width, **options.pixel_fields),
            **_stored_as(options, existing.spec.base, existing.spec.feature_shape),
            **_views_of(options),
        )
        _require_same(existing, wanted)
        store = existing
    else:
        store, chosen = _with_base(options, storage, existing, samples, say, workers_choose)
    if workers_choose:
        say(_on_workers(store.spec.numerics))
        return store, None
    return _settle(options, store, chosen, samples, say)


def _on_workers(numerics: Numerics) -> str:
    if numerics.is_decided:
        return f"engine: {numerics.label}, the store's own, or what a worker has that agrees"
    return "engine: the first worker measures and decides; the others follow"


def _settle(
    options: ExtractOptions,
    store: FeatureStore,
    chosen: Chosen | None,
    samples: Samples,
    say: Callable[[str], None],
) -> tuple[FeatureStore, Chosen]:
    """Settles the engine of a run whose workers share this machine; returns it with the store."""
    settings = WorkerSettings(
        store.storage.url,
        store.storage.options,
        batch_size=options.chunks.batch_size,
        trust_model=options.base.trust_model,
        asked=options.engine,
    )
    # A run on distributed workers may have created the store, and ended before one decided.
    store = decided(store, settings, partial(samples.spread, pixels=store.spec.pixels))
    if chosen is None or chosen.choice.numerics.hash != store.spec.numerics.hash:
        asked = for_base(options.engine, store.spec.base)
        choice, reason = for_stored(store.spec.numerics, this_machine, asked)
        chosen = Chosen.of(choice, reason or "the store's own")
    elif chosen.engine and chosen.choice.engine == "openvino":
        share_engine(store, dataclasses.replace(settings, engine=chosen.choice), chosen.engine)
    say(chosen.line)
    first = partial(samples.first, pixels=store.spec.pixels)
    difference = check_numerics(store, settings, chosen, first)
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
    samples: Samples,
    say: Callable[[str], None],
    workers_choose: bool,
) -> tuple[FeatureStore, Chosen | None]:
    """Prepares the base, and compares it with the existing store or creates one."""
    base = prepared_base(options.base, allow_packaged=not options.inputs)
    for note in base.notes:
        say(note)
    if existing is None:
        return _create(options, storage, base, None if workers_choose else samples)
    wanted = make_spec(options, base)
    _require_same(existing, wanted)
    if not _has_model(existing):
        write_model(storage, base, wanted)
    return existing, None


def _require_same(existing: FeatureStore, wanted: StoreSpec) -> None:
    """Refuses a run whose features are not those of the store.

    Raises:
      SpecMismatch: with every difference; of taps, with the way to other ones.
    """
    held, asked = (set(taps_of(spec.base)) for spec in (existing.spec, wanted))
    if held != asked and (existing.spec.base.taps or wanted.base.taps):
        raise SpecMismatch(
            f"--layer: the rows of the store at {existing.url} have {', '.join(sorted(held))}, and "
            f"this run would write {', '.join(sorted(asked))}; all rows of a store have the same "
            "taps, so extract into another --output (its rows will have the same keys), or repeat "
            "the --layer flags of the store"
        )
    existing.spec.require_same(wanted, f"the store at {existing.url}")


def prepared_base(request: BaseRequest, allow_packaged: bool) -> PreparedBase:
    """Takes a base from an earlier command on this machine, or builds it; pixels need none."""
    if request.is_pixels:
        return pixel_base(request)
    kept = kept_base(request, allow_packaged=allow_packaged)
    if kept is not None:
        return kept
    if not request.is_graph:
        import_keras()
        # Must precede the first variable: TensorFlow would take all of a GPU's memory from the
        # workers.
        limit_threads(cores(), cores())
    built = build_base(request, allow_packaged=allow_packaged)
    return keep_base(built, request, allow_packaged=allow_packaged)


def _create(
    options: ExtractOptions, storage: Storage, base: PreparedBase, samples: Samples | None
) -> tuple[FeatureStore, Chosen | None]:
    """Creates the store, or opens the one that another job created meanwhile.

    Without samples, on which it would choose the engine, the store leaves the numerics open.
    """
    spec = make_spec(options, base)
    # Refuses views that cannot be made of images of this size.
    Views.of(spec)
    if samples is None:
        write_model(storage, base, spec)
        return create_store(storage, dataclasses.replace(spec, numerics=UNDECIDED)), None
    sample = partial(samples.spread, pixels=spec.pixels)
    with tempfile.TemporaryDirectory(prefix="hoarfrost-") as folder:
        # Nothing is written to the output before the engine is chosen, which may fail.
        draft = Storage(folder)
        write_model(draft, dataclasses.replace(base, cuts={}), spec)
        stored = StoredBase(draft, spec, options.base.trust_model, base.model)
        chosen = choose_engine(
            options.engine, options.chunks.batch_size, stored, sample, this_machine
        )
    # The spec is written last and exclusively, so that a visible store has its base.
    write_model(storage, base, spec)
    if chosen.quantised:
        storage.write(layout.quantised_file(chosen.choice.model), chosen.quantised)
    spec = dataclasses.replace(spec, numerics=chosen.choice.numerics)
    return create_store(storage, spec), chosen


def choose_dtype(options: ExtractOptions, feature_shape: tuple[int, ...]) -> str:
    """Returns the stored dtype; by default float16 for maps and float32 for embeddings."""
    if options.base.is_pixels:
        return PIXEL_DTYPE
    if options.dtype != "auto":
        return options.dtype
    return "float16" if len(feature_shape) > 1 else "float32"


def _stored_as(
    options: ExtractOptions, base: BaseSpec, feature_shape: tuple[int, ...]
) -> dict[str, Any]:
    """Returns the fields of a spec that say how rows are stored: the dtype, or that of each tap."""
    if not base.taps:
        return {"base": base, "dtype": choose_dtype(options, feature_shape)}
    taps = [dataclasses.replace(tap, dtype=choose_dtype(options, tap.shape)) for tap in base.taps]
    return {"base": dataclasses.replace(base, taps=tuple(taps)), "dtype": "float32"}


def make_spec(options: ExtractOptions, base: PreparedBase) -> StoreSpec:
    """Returns the spec of the features that the options and the base give."""
    request = options.base.digest
    if options.base.application and base.spec.weights != options.base.weights == "imagenet":
        request += PACKAGED
    return StoreSpec(
        pixels=PixelSpec(base.image_size, **options.pixel_fields),
        feature_shape=base.feature_shape,
        **_stored_as(options, dataclasses.replace(base.spec, request=request), base.feature_shape),
        numerics=EngineChoice().numerics,
        **_views_of(options),
    )


def _views_of(options: ExtractOptions) -> dict[str, Any]:
    """Returns the fields of a spec that define the views."""
    return {**vars(options.views), "seed": options.seed}


def _has_model(store: FeatureStore) -> bool:
    base = store.spec.base
    files = layout.model_files(base.weights_hash, "") + tuple(
        map(layout.model_file, cut_hashes(base))
    )
    return all(store.storage.exists(name) for name in files)


def write_model(storage: Storage, base: PreparedBase, spec: StoreSpec) -> None:
    """Writes a base into a store, under the name that its spec gives."""
    try:
        for name in layout.model_files(spec.base.weights_hash, ""):
            storage.write(name, base.data)
        for weights_hash, data in base.cuts.items():
            storage.write(layout.model_file(weights_hash), data)
    except OSError as error:
        raise cannot_write("--output", storage.public_url, error) from error
