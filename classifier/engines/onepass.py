"""Whether the layers of a graph give in one pass what each of them gives alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from classifier.engines.engine import EngineChoice, relative_distances, run_padded
from classifier.engines.loading import StoredBase, load_engine
from classifier.engines.probes import PROBES, synthetic_images
from featurestore.errors import UsageError
from featurestore.spec import StoreSpec
from featurestore.taps import divided, narrowed

# The largest relative L2 distance of a row. A low precision rounds differently where other
# operations are fused; what shares its memory by mistake has other numbers altogether.
LARGEST = 0.1


def require_same_alone(base: StoredBase, choice: EngineChoice) -> None:
    """Refuses taps of a graph that an engine computes differently beside each other.

    OpenVINO 2026.4 does so without an error; see `classifier.graphs.network`. Each tap is compiled
    once, which takes seconds. Networks of Keras, which are converted anew for each tap, are left
    out.

    Args:
      base: with the spec of the new store.
      choice: engine and precision; of int8, the float32 model is looked at.

    Raises:
      UsageError: naming the first such tap.
    """
    taps = base.spec.base.taps
    if not (base.is_graph and taps):
        return
    if choice.precision == "int8":
        choice = EngineChoice(choice.engine)
    images = synthetic_images(PROBES, base.spec.pixels.image_size)

    def rows(spec: StoreSpec) -> np.ndarray:
        return run_padded(load_engine(replace(base, spec=spec), choice, PROBES), images)

    for tap, together in zip(taps, divided(taps, rows(base.spec)), strict=True):
        alone = rows(narrowed(base.spec, tap.name))
        finite = np.isfinite(alone.reshape(PROBES, -1)).all(axis=1)
        distances = relative_distances(together[finite], alone[finite])
        if not (distances <= LARGEST).all():
            raise UsageError(
                f"--layer {tap.name}: {choice.label} computes it {distances.max():.2g} away from "
                "what it gives for this layer alone, which is a fault of that library; extract "
                "this layer into a store of its own"
            )
