"""Ray Data's way: `read_images`, `map_batches` with the base in an actor, `write_parquet`.

    python -m benchmarks.raydata --folder photos/train --base base.keras --size 160 \\
        --preprocess tf --pooling avg

This follows Ray's guide to offline batch inference, with the same model and files as the other
contenders. The report is printed as JSON.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.book import MODULES, loop_parser
from benchmarks.machine import installed
from benchmarks.rounds import NotRun
from featurestore.cli.command import main, say
from featurestore.io.cores import cores

BATCH = 32


class Predictor:
    """The base, built once in an actor of Ray.

    Args:
      base: the model's file.
      preprocess: ``caffe`` or ``tf``.
      pooling: ``none`` or ``avg``.
      first: a file to write when the first batch is done.
    """

    def __init__(self, base: str, preprocess: str, pooling: str, first: str) -> None:
        import keras

        model = keras.saving.load_model(base)
        if pooling == "avg":
            model = keras.Model(model.input, keras.layers.GlobalAveragePooling2D()(model.output))
        self._model, self._first = model, Path(first)
        self._preprocess = getattr(keras.applications, MODULES[preprocess]).preprocess_input

    def __call__(self, batch):
        images = self._preprocess(batch["image"].astype("float32"))
        features = self._model.predict(images, verbose=0)
        if not self._first.exists():
            self._first.write_text(json.dumps({"images": len(features), "at": time.time()}))
        return {"path": batch["path"], "features": features}


def require_ray() -> None:
    """Raises `NotRun` if Ray Data is not installed."""
    if not installed("ray"):
        raise NotRun("Ray is not installed; pip install 'hoarfrost[bench]' brings it")


def run(argv: Sequence[str]) -> int:
    """Runs the job; returns the exit code."""
    args = loop_parser("benchmarks.raydata", __doc__).parse_args(argv)
    import ray

    ray.init(num_cpus=cores(), include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    first, out = Path("first.json").absolute(), Path("features").absolute()
    images = ray.data.read_images(
        str(args.folder), size=(args.size, args.size), mode="RGB", include_paths=True
    )
    images.map_batches(
        Predictor,
        fn_constructor_args=(str(args.base), args.preprocess, args.pooling, str(first)),
        batch_size=BATCH,
        concurrency=1,
        num_cpus=1,
    ).write_parquet(str(out))
    last = time.time()
    begun = json.loads(first.read_text())
    count = sum(1 for _ in args.folder.glob("*/*.jpg"))
    ray.shutdown()
    report = {"images": count, "first_images": begun["images"], "first_at": begun["at"]}
    say(json.dumps({**report, "last_at": last}))
    return 0


if __name__ == "__main__":
    main(run)
