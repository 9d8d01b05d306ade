"""Runs a Beam pipeline to its end, and turns any error of the runner into one line."""

from __future__ import annotations

import _thread
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from classifier.runtime import standard_error_held
from featurestore.cli import interrupts
from featurestore.cli.command import VERBOSE
from featurestore.cli.logs import is_json
from featurestore.errors import HoarfrostError, RunFailed
from pipelines.beam.dask import require_done
from pipelines.beam.messages import of_ours, reason_of, without_place

if TYPE_CHECKING:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

# Less than a command has to clean up when it is interrupted.
CANCEL_SECONDS = 6.0
# The thread of Beam that reads a job server's messages.
READER = "wait_until_finish_read"
QUIET = "HOARFROST_QUIET_SECONDS"
QUIET_SECONDS = 300.0


def run_pipeline(
    options: PipelineOptions,
    build: Callable[[beam.Pipeline], Any],
    after: str,
    wait: bool = True,
    signs: Callable[[], object] | None = None,
) -> None:
    """Runs a pipeline.

    Args:
      options: as `beam_options.make_options` builds them.
      build: adds the steps to the pipeline.
      after: what is left after a failure, and what to do, for the message.
      wait: whether to wait for its end.
      signs: returns something that changes while workers work, where the runner may not notice that
        they have died.

    Raises:
      HoarfrostError: for any error of the runner, in one line.
    """
    import apache_beam as beam
    from apache_beam.runners.runner import PipelineState

    from pipelines.beam.options import runs_here

    is_here = runs_here(options)
    _silence_reader()
    # Workers on this machine log to this process's standard error.
    held = nullcontext() if is_json() else standard_error_held()
    with held, interrupts.abrupt():
        try:
            pipeline = beam.Pipeline(options=options)
            build(pipeline)
            job = pipeline.run()
            # A job server that Beam starts takes Ctrl-C over, and would end before the job does.
            interrupts.listen_again()
            state = _await(job, signs) if wait else None
            if state not in (None, PipelineState.DONE):
                raise RunFailed(f"the runner ended the job as {state}; {after}")
            require_done(job, after)
        except HoarfrostError as error:
            _raise_interrupt(error)
            raise type(error)(without_place(str(error), is_here)) from error
        # A runner may raise any exception; the user gets one line of it. Beam exits for a flag that
        # its job server refuses.
        except (Exception, SystemExit) as error:
            raise _explain(error, after, is_here) from error


def _silence_reader() -> None:
    """Keeps Beam's reader of messages from printing a traceback when the job server is gone.

    The wait for the job fails then too, and says so in one line.
    """
    shown = threading.excepthook
    if os.environ.get(VERBOSE) or getattr(shown, "hides", "") == READER:
        return

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if not (arguments.thread and arguments.thread.name == READER):
            shown(arguments)

    hook.hides = READER  # type: ignore[attr-defined]
    threading.excepthook = hook


def _await(job: Any, signs: Callable[[], object] | None) -> str | None:
    """Waits for a job, and cancels it if this command is interrupted."""
    with (
        interrupts.at_interrupt(partial(_cancel, job), early=True),
        _noticing_silence(signs) if signs else nullcontext(),
    ):
        return job.wait_until_finish()


def _cancel(job: Any) -> None:
    """Cancels a job, within a deadline. In a thread: a signal may have interrupted any code."""
    done = _thread.allocate_lock()
    done.acquire()

    def cancel() -> None:
        # A runner may raise any exception, and this process is about to end.
        with suppress(Exception):
            job.cancel()
            done.release()

    _thread.start_new_thread(cancel, ())
    if not done.acquire(timeout=CANCEL_SECONDS):
        interrupts.tell(
            "the runner did not confirm that it has cancelled the job; see its own page"
        )


@contextmanager
def _noticing_silence(signs: Callable[[], object]) -> Iterator[None]:
    """Tells the user, in one line, when workers show no sign of life for minutes."""
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(signs, over), daemon=True)
    watch.start()
    try:
        yield
    finally:
        over.set()


def _watch(signs: Callable[[], object], over: threading.Event) -> None:
    allowed = float(os.environ.get(QUIET) or QUIET_SECONDS)
    seen, since = signs(), time.monotonic()
    while not over.wait(allowed / 4):
        # The network fails for a moment; what is asked is only whether anything has changed.
        with suppress(OSError):
            now = signs()
            if now != seen:
                seen, since = now, time.monotonic()
        if time.monotonic() - since > allowed:
            since = time.monotonic()
            interrupts.tell(
                f"note: the runner's workers have committed nothing for {allowed:g} s, and the "
                "runner reports no error; if its log or page shows that they have died, press "
                "Ctrl-C, which cancels the job, and give the same command again"
            )


@contextmanager
def on_worker() -> Iterator[None]:
    """Names this machine in the errors of a worker, for a user who sits at another one."""
    try:
        yield
    except HoarfrostError as error:
        raise type(error)(f"worker on {socket.gethostname()}: {error}") from error


def _explain(error: BaseException, after: str, is_here: bool) -> HoarfrostError:
    """Turns a runner's error into one line: that of our own error, if its text holds one."""
    _raise_interrupt(error)
    if ours := of_ours(str(error)):
        return RunFailed(without_place(ours, is_here))
    return RunFailed(
        f"the runner stopped: {reason_of(error)}; {after} (HOARFROST_VERBOSE=1 shows the runner's "
        "log)"
    )


def _raise_interrupt(error: BaseException) -> None:
    """Raises the interruption that caused the runner's error, if one did."""
    if interrupts.received() or "KeyboardInterrupt" in str(error):
        raise KeyboardInterrupt from error
