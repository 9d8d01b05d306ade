"""Finds or makes the store of a run: the base, the spec, the probes."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from classifier.bases import FrozenBase, build_base, save_base
from classifier.engines import current_numerics
from classifier.imagefiles import BadImage
from classifier.inputs import ImageRef, ShardRef, read_many
from classifier.inputs.listing import Ignored
from classifier.inputs.refs import ShardDamaged
from classifier.inputs.shards import iter_shard
from classifier.pixels import decode
from classifier.probes import PROBES, require_numerics, synthetic_images, write_probes
from classifier.runtime import import_keras
from featurestore import layout
from featurestore.errors import UsageError
from featurestore.spec import PixelSpec, StoreSpec
from featurestore.storage import Storage
from featurestore.store import FeatureStore, create_store, open_store
from pipelines.options import ExtractOptions, WorkerSettings
from pipelines.worker import load_engine

# Marks a base whose ImageNet weights could not be had and were replaced, so that no run on a
# user's own images ever takes it for the real one.
PACKAGED = "+packaged"


def join_store(
    options: ExtractOptions,
    storage: Storage,
    head: Sequence[ImageRef | ShardRef],
    say: Callable[[str], None],
) -> FeatureStore:
    """Opens the store for a run, creating it when it is not there.

    Args:
      options: of the run.
      storage: of the output.
      head: the first inputs; the probe images are taken from them.
      say: shows one line to the user.

    Raises:
      SpecMismatch: when the store holds other features, or this machine computes them differently.
    """
    is_sample = not options.inputs
    existing = existing_store(storage)
    digest = options.base.digest
    requests = {digest, digest + PACKAGED} if is_sample else {digest}
    if existing and existing.spec.base.request in requests and _has_model(existing):
        # The store keeps its base: nothing is downloaded or built again.
        height_width = options.base.image_size or existing.spec.pixels.image_size
        wanted = dataclasses.replace(
            existing.spec,
            pixels=PixelSpec(height_width, **options.pixels),
            dtype=choose_dtype(options.dtype, existing.spec.feature_shape),
        )
        existing.spec.require_same(wanted, f"the store at {existing.url}")
        store = existing
    else:
        import_keras()
        base = build_base(options.base, allow_packaged=is_sample)
        for note in base.notes:
            say(note)
        wanted = make_spec(options, base)
        if existing:
            existing.spec.require_same(wanted, f"the store at {existing.url}")
            if not _has_model(existing):
                _write_model(storage, base, wanted)
            store = existing
        else:
            # The spec last and exclusively: a store that can be seen has its base.
            _write_model(storage, base, wanted)
            store = create_store(storage, wanted)
    _check_numerics(options, store, head, say)
    return store


def _check_numerics(
    options: ExtractOptions,
    store: FeatureStore,
    head: Sequence[ImageRef | ShardRef],
    say: Callable[[str], None],
) -> None:
    """Makes the probes of a new store; on an old one lets other numerics join if they agree."""
    has_probes = store.storage.exists(layout.PROBES)
    same = current_numerics().hash == store.spec.numerics.hash
    if has_probes and same:
        return
    settings = WorkerSettings(
        store.storage.url,
        store.storage.options,
        batch_size=options.chunks.batch_size,
        trust_model=options.base.trust_model,
    )
    engine = load_engine(store, settings)
    if not has_probes:
        write_probes(store.storage, engine, _probe_pixels(options, store.spec, head))
    elif (difference := require_numerics(store, engine)) is not None:
        say(f"other library versions than the store's; probe images agree to {difference:.1e}")


def choose_dtype(asked: str, feature_shape: tuple[int, ...]) -> str:
    """Returns the stored dtype: maps default to float16, embeddings to float32."""
    if asked != "auto":
        return asked
    return "float16" if len(feature_shape) > 1 else "float32"


def make_spec(options: ExtractOptions, base: FrozenBase) -> StoreSpec:
    """Returns the spec of the features that `options` asks for."""
    request = options.base.digest
    if options.base.application and base.spec.weights != options.base.weights == "imagenet":
        request += PACKAGED
    return StoreSpec(
        base=dataclasses.replace(base.spec, request=request),
        pixels=PixelSpec(base.image_size, **options.pixels),
        feature_shape=base.feature_shape,
        dtype=choose_dtype(options.dtype, base.feature_shape),
        numerics=current_numerics(),
        seed=options.seed,
    )


def existing_store(storage: Storage) -> FeatureStore | None:
    """Opens the store that is there, if any.

    Raises:
      UsageError: when the place cannot be reached.
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
            raise UsageError(
                f"--output: cannot write to {storage.public_url!r}: {error}; choose a folder or "
                "bucket that exists and that you may write to"
            ) from error


def _probe_pixels(
    options: ExtractOptions, spec: StoreSpec, head: Sequence[ImageRef | ShardRef]
) -> np.ndarray:
    """Decodes up to `PROBES` of the first images; draws some when none can be decoded."""
    images = []
    for data in _first_bytes(head, options):
        try:
            images.append(decode(data, spec.pixels).pixels)
        except BadImage:
            continue
        if len(images) == PROBES:
            break
    return np.stack(images) if images else synthetic_images(PROBES, spec.pixels.image_size)


def _first_bytes(head: Sequence[ImageRef | ShardRef], options: ExtractOptions):
    refs = [ref for ref in head if isinstance(ref, ImageRef)]
    shards = [ref for ref in head if isinstance(ref, ShardRef)]
    if refs:
        for data in read_many(refs[: 4 * PROBES], options.storage_options):
            if isinstance(data, bytes):
                yield data
        return
    try:
        for _, data in iter_shard(shards[0], options.storage_options, Ignored()):
            if isinstance(data, bytes):
                yield data
    except (OSError, ShardDamaged):
        # The run itself reports a shard that cannot be read; here it only yields no probes.
        return
