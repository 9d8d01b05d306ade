"""Packages that some tests compare with: they may be missing on your machine, but not in CI."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import pytest


def optional(name: str) -> ModuleType:
    """Imports a package that a test needs.

    Where it cannot be imported the test is skipped, as by `pytest.importorskip`. Where ``CI`` is
    set it fails instead: there, a skipped test would be a test that nobody runs.

    Args:
      name: of the module, such as ``sklearn.metrics``.

    Raises:
      ImportError: in CI, when it cannot be imported.
    """
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        return importlib.import_module(name)
    return pytest.importorskip(name)


def unrequired(name: str) -> ModuleType:
    """Imports a package that is too large for CI; where it is missing the test is skipped."""
    return pytest.importorskip(name)
