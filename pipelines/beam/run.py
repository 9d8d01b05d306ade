"""Runs a Beam pipeline to its end; whatever the runner raises becomes one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from classifier.runtime import standard_error_held
from featurestore.cli import interrupts
from featurestore.errors import HoarfrostError, RunFailed

if TYPE_CHECKING:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

# How Beam quotes an exception of ours when it passes it on as text.
_WHERE = re.compile(r" \[while running .*\]")
_OURS = re.compile(r"featurestore\.errors\.(?:\w+): (.+?)(?: \[while running|\\n|\n|$)")


def run_pipeline(
    options: PipelineOptions, build: Callable[[beam.Pipeline], Any], after: str
) -> None:
    """Runs a pipeline and waits for it.

    Args:
      options: as `beam_options.make_options` builds them.
      build: adds the steps to the pipeline.
      after: what holds after a failure, and what to do, for the message.

    Raises:
      HoarfrostError: in one line, whatever the runner raised.
    """
    import apache_beam as beam
    from apache_beam.runners.runner import PipelineState

    with standard_error_held(), interrupts.abrupt():
        try:
            pipeline = beam.Pipeline(options=options)
            build(pipeline)
            state = pipeline.run().wait_until_finish()
            if state not in (None, PipelineState.DONE):
                raise RunFailed(f"the runner ended the job as {state}; {after}")
        except HoarfrostError as error:
            _raise_interrupt(error)
            raise type(error)(_WHERE.sub("", str(error))) from error
        # Runners raise what they like; the user gets one line of it.
        except Exception as error:
            raise _explain(error, after) from error


def _explain(error: Exception, after: str) -> HoarfrostError:
    """Turns what a runner raised into one line; our own errors are found in its text."""
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
    """Goes on with an interruption that the runner, or its workers' end, made an error of."""
    if interrupts.received() or "KeyboardInterrupt" in str(error):
        raise KeyboardInterrupt from error
