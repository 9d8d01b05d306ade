"""What a worker tells of its work: to the progress line, to the log and to Prometheus."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from featurestore.cli.logs import event, start_json
from featurestore.commit import Marker
from featurestore.errors import one_line
from pipelines.options import WatchOptions
from pipelines.watching.metrics import Metrics
from pipelines.watching.progress import Reporter

_LOG = logging.getLogger(__name__)


class Watch:
    """Tells of one worker process; threads may share it.

    Args:
      options: where it tells.
      reporter: of the progress line.
      run_id: of the run.
      worker: name of this process.
      engine: engine and precision, in words.

    Raises:
      UsageError: when the folder of metrics cannot be written.
    """

    def __init__(
        self, options: WatchOptions, reporter: Reporter, run_id: str, worker: str, engine: str
    ) -> None:
        if options.json_logs:
            start_json()
        self._reporter = reporter
        self._who: dict[str, Any] = {"run": run_id, "worker": worker}
        self._metrics = Metrics(options.metrics_folder, {**self._who, "engine": engine})
        event(_LOG, f"worker ready: {engine}", engine=engine, **self._who)

    def group(self, images: int, quarantined: int, batch_seconds: Sequence[float]) -> None:
        """Tells of a group of images, the quarantined ones among them, and its calls of the base.

        Args:
          images: number of images.
          quarantined: how many of them could not be used.
          batch_seconds: seconds of each call of the base.
        """
        self._reporter.add(images, quarantined)
        self._metrics.group(images, quarantined, batch_seconds)

    def committed(self, marker: Marker) -> None:
        """Tells of a chunk that this process committed."""
        self._metrics.chunk(marker.time)
        event(
            _LOG,
            f"chunk of {marker.first_key} committed: {marker.ledger.rows} rows",
            chunk=marker.chunk_id,
            images=marker.ledger.images_in,
            rows=marker.ledger.rows,
            quarantined=marker.ledger.quarantined,
            seconds=marker.seconds,
            **self._who,
        )

    def failed(self, chunk_id: str, first_key: str, error: BaseException) -> None:
        """Tells of a chunk that failed as a whole."""
        self._metrics.dead_chunk()
        kind = type(error).__name__
        message = f"chunk of {first_key} failed: {kind}: {one_line(error)}"
        event(_LOG, message, logging.WARNING, chunk=chunk_id, kind=kind, **self._who)
