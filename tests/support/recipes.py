"""Recipes run in this process, which has TensorFlow loaded."""

from __future__ import annotations

import importlib
from pathlib import Path

from classifier.recipes.recipe import read_recipe
from featurestore import FeatureStore, open_store
from featurestore.io.storage import Storage
from pipelines.execution import run_steps
from pipelines.recipe import summary
from pipelines.steps import Step, steps_of


def in_this_process(step: Step) -> int:
    """Runs a step as its command does; returns its exit code."""
    return importlib.import_module(step.command).run(list(step.arguments)) or 0


def run_recipe(name: str, images: Path, output: Path, *changes: str) -> dict:
    """Runs a recipe with changes such as ``train.epochs=1``; returns its summary and commands."""
    steps = steps_of(read_recipe(name).with_settings(changes), [str(images)], str(output))
    ran = run_steps(steps, Storage(str(output)), in_this_process, lambda line: None)
    return {**summary(steps), "commands": ran}


def store_of(output: Path, name: str = "store") -> FeatureStore:
    """Opens a store that a recipe made."""
    return open_store(str(output / name))
