"""What Beam's own flags say, as plain values for modules that do not import Beam."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

from apache_beam import version
from apache_beam.options.pipeline_options import FlinkRunnerOptions, PipelineOptions

from pipelines.beam.options import is_local, runner_name, runs_here, set_processes


def read_settings(arguments: Sequence[str]) -> dict[str, Any]:
    """Reads Beam's flags without checking them, and without asking a cluster.

    Args:
      arguments: Beam's own flags.

    Returns:
      ``runner`` in lower case and without "runner"; ``runs_here``, whether workers share this
      machine with the driver; ``flags``, every flag's value by its name; ``beam_version``; and
      ``flink_versions``, the minor versions of Flink that Beam has a job server for.

    Raises:
      SystemExit: for a value that Beam's parser refuses.
    """
    with contextlib.redirect_stderr(io.StringIO()):
        options = PipelineOptions(list(arguments))
        if is_local(options):
            set_processes(options, arguments)
        flags = options.get_all_options()
    return {
        "runner": runner_name(options).rsplit(".", 1)[-1].lower().removesuffix("runner"),
        "runs_here": runs_here(options),
        "flags": flags,
        "beam_version": version.__version__,
        "flink_versions": tuple(FlinkRunnerOptions.PUBLISHED_FLINK_VERSIONS),
    }
