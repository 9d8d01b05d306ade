"""Runs steps in processes of their own, and notes which are done."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from classifier.runs.run import RUN, SUMMARY
from featurestore import open_store
from featurestore.errors import HoarfrostError
from featurestore.io.lookup import entry
from featurestore.io.storage import Storage, connect
from featurestore.numerics import digest
from pipelines.steps import EXTRACTIONS, RUNS, Step

# Which steps are done: of a step, a digest of its arguments and of all that came before.
DONE = "recipe.json"
Execute = Callable[[Step], int]


class StepFailed(HoarfrostError):
    """A step that ended with another exit code than 0, which becomes that of the recipe."""

    def __init__(self, step: Step, code: int) -> None:
        super().__init__(f"{step.typed} ended with exit code {code}; nothing after it has run")
        self.exit_code = code


def run_steps(
    steps: Sequence[Step], storage: Storage, execute: Execute, tell: Callable[[str], None]
) -> list[str]:
    """Runs the steps that are not done yet.

    An extraction is always run: it finds out by itself what is new.

    Args:
      steps: in their order.
      storage: the recipe's folder, where finished steps are noted.
      execute: runs a step and returns its exit code.
      tell: takes lines for the user.

    Returns:
      The commands that ran, as typed.

    Raises:
      StepFailed: when a step ends with another exit code than 0.
    """
    done: dict[str, str] = json.loads(storage.read(DONE)) if storage.exists(DONE) else {}
    trail, ran = "", []
    for step in steps:
        step = with_split(step)
        name = f"{step.section} {step.result or step.value('--run')}"
        trail = digest([trail, step.command, *step.arguments])
        is_there = bool(step.result) and _is_there(step)
        if step.section not in EXTRACTIONS:
            if done.get(name) == trail and (is_there or not step.result):
                tell(f"\ndone before: {step.typed}")
                continue
            if is_there and step.section in (*RUNS, "export"):
                step = step._replace(arguments=(*step.arguments, "--overwrite"))
        tell(f"\n$ {step.typed}")
        if code := execute(step):
            raise StepFailed(step, code)
        ran.append(step.typed)
        if step.section in EXTRACTIONS:
            trail = digest([trail, _fingerprint(step.result)])
        done[name] = trail
        storage.write(DONE, json.dumps(done, indent=2))
    return ran


def with_split(step: Step) -> Step:
    """Returns an evaluation with a split that its run has."""
    if step.section != "evaluate" or "--split" in step.arguments:
        return step
    split = best_split(step.value("--store"), step.value("--run"))
    return step._replace(arguments=(*step.arguments, "--split", split))


def best_split(store: str, run: str) -> str:
    """Returns the split to judge a run by: test, else validation, else train."""
    validation = json.loads(Storage(run).read(SUMMARY)).get("validation")
    rest = "train" if validation == "train" else "validation"
    return "test" if open_store(store).split_counts().get("test") else rest


def _is_there(step: Step) -> bool:
    fs, path = connect(step.result)
    return entry(fs, f"{path}/{RUN}" if step.section in RUNS else path) is not None


def _fingerprint(url: str) -> str:
    """Returns a digest of what a store holds: its rows and their labels."""
    store = open_store(url)
    parts = sorted(marker.part_sha256 for marker in store.markers().values())
    return digest([parts, store.label_versions()])


def in_process_of_its_own(step: Step, sink: Any = None) -> int:
    """Runs a step; after an interruption waits until it has ended cleanly."""
    command = [sys.executable, "-m", step.command, *step.arguments]
    with subprocess.Popen(command, stdout=sink) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            # From a terminal the command has the signal already, and ignores a second one.
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
