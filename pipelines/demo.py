"""Extracts the built-in digits, trains a linear head on their features, and evaluates it.

    python -m pipelines.demo

Every step is a command, which is printed before it runs and which you can copy.
"""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from featurestore.cli.command import Parser, main, say
from featurestore.errors import RunFailed
from pipelines.driver import SAMPLE_FOLDER

KEPT = "finished steps stay in ./demo; give the same command again"
FOLDER = Path("demo")
STORE, RUN = FOLDER / "store", FOLDER / "run"
STEPS = (
    f"pipelines.extract --runner=DirectRunner --model MobileNetV2 --pooling avg --image_size 160 "
    f"--output {STORE}",
    f"classifier.train --store {STORE} --output {RUN} --head linear --overwrite",
    f"classifier.evaluate --run {RUN} --store {STORE} --split test",
    f"classifier.show --store {STORE} --output {FOLDER / 'digits.png'} --rows 10 --per_class",
)


def run(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    Parser(prog="python -m pipelines.demo", description=__doc__).parse_args(argv)
    for step in STEPS:
        say(f"\n$ python -m {step}")
        if code := _run_step(step):
            raise RunFailed(f"python -m {step} ended with exit code {code}")
    say()
    for line in closing_lines():
        say(line)
    return 0


def _run_step(step: str) -> int:
    """Runs a command; after an interruption waits until it has ended cleanly."""
    with subprocess.Popen([sys.executable, "-m", *shlex.split(step)]) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            # From a terminal the command has the signal already, and ignores a second one.
            process.send_signal(signal.SIGINT)
            process.wait()
            raise


def closing_lines() -> list[str]:
    """Returns the lines that sum up what the steps wrote."""
    runs = [json.loads(path.read_text()) for path in sorted((STORE / "runs").glob("*.json"))]
    extraction = max(runs, key=lambda record: record["ledger"]["rows"])
    predicted = _predict_command()
    return [
        f"test accuracy {_accuracy():.4f}, linear head on features of {SAMPLE_FOLDER}",
        f"extraction    {extraction['ledger']['rows']:,} images, "
        f"{extraction['images_per_second']:,.1f} images/s with start-up",
        f"store         {STORE}",
        f"run           {RUN}",
        f"report        {RUN / 'report.html'}",
        *(f"plot          {path}" for path in sorted(FOLDER.rglob("*.png"))),
        f"try           {predicted}",
    ]


def _accuracy() -> float:
    found: dict[str, Any] = json.loads(next((RUN / "evaluation").glob("test-*.json")).read_text())
    return found["accuracy"]


def _predict_command() -> str:
    image = next(iter(sorted(Path(SAMPLE_FOLDER).glob("test/7/*.png"))))
    return f".venv/bin/python -m classifier.predict --run {RUN} {image}"


if __name__ == "__main__":
    main(run, kept=KEPT)
