"""Runs a Beam pipeline to its end, and turns any error of the runner into one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from classifier.runtime import standard_error_held
from featurestore.cli import interrupts
from featurestore.errors import HoarfrostError, RunFailed
from pipelines.beam.dask import require_done

if TYPE_CHECKING:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

# How Beam quotes an exception of ours when it passes it on as text.
_WHERE = re.compile(r" \[while running .*\]")
_OURS = re.compile(r"featurestore\.errors\.(?:\w+): (.+?)(?: \[while running|\\n|\n|$)")


def run_pipeline(
    options: PipelineOptions, build: Callable[[beam.Pipeline], Any], after: str, wait: bool = True
) -> None:
    """Runs a pipeline.

    Args:
      options: as `beam_options.make_options` builds them.
      build: adds the steps to the pipeline.
      after: what is left after a failure, and what to do, for the message.
      wait: whether to wait for its end.

    Raises:
      HoarfrostError: for any error of the runner, in one line.
    """
    import apache_beam as beam
    from apache_beam.runners.runner import PipelineState

    with standard_error_held(), interrupts.abrupt():
        try:
            pipeline = beam.Pipeline(options=options)
            build(pipeline)
            job = pipeline.run()
            state = job.wait_until_finish() if wait else None
            if state not in (None, PipelineState.DONE):
                raise RunFailed(f"the runner ended the job as {state}; {after}")
            require_done(job, after)
        except HoarfrostError as error:
            _raise_interrupt(error)
            raise type(error)(_WHERE.sub("", str(error))) from error
        # A runner may raise any exception; the user gets one line of it.
        except Exception as error:
            raise _explain(error, after) from error


def _explain(error: Exception, after: str) -> HoarfrostError:
    """Turns a runner's error into one line: that of our own error, if its text holds one."""
    _raise_interrupt(error)
    found = _OURS.findall(str(error))
    if found:
        return RunFailed(found[-1])
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[-1] if lines else type(error).__name__
    return RunFailed(
        f"the runner stopped: {reason[:500]}; {after} (HOARFROST_VERBOSE=1 shows the runner's log)"
    )


def _raise_interrupt(error: Exception) -> None:
    """Raises the interruption that caused the runner's error, if one did."""
    if interrupts.received() or "KeyboardInterrupt" in str(error):
        raise KeyboardInterrupt from error
