"""Imports Apache Beam: for the local runner without the clients of other systems.

Every other module of this room imports Beam by its name. A command calls `load_beam` before it
imports the first of them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise

from classifier.runtime import is_ours
from featurestore.cli.absent import absent

LOCAL_RUNNERS = ("directrunner", "direct", "switchingdirectrunner", "bundlebaseddirectrunner")
# Beam imports each one that it finds, which is half of its own import's time. No command reads or
# writes by Beam's connectors.
CLIENTS = ("apitools", "azure", "boto3", "google.cloud", "hdfs", "pandas", "pymongo")


def load_beam(arguments: Sequence[str]) -> None:
    """Imports Beam, in a process of ours without `CLIENTS` if the workers run on this machine.

    Args:
      arguments: Beam's own flags, unchecked.
    """
    runners = [value for flag, value in pairwise([*arguments, ""]) if flag == "--runner"]
    runners += [each.partition("=")[2] for each in arguments if each.startswith("--runner=")]
    here = is_ours() and all(map(is_local_runner, runners))
    with absent(*CLIENTS) if here else nullcontext(), _unwarned():
        import apache_beam  # noqa: F401


@contextmanager
def _unwarned() -> Iterator[None]:
    """Drops Beam's warnings about absent clients, the first of which would set up logging."""
    root, silent = logging.getLogger(), logging.NullHandler()
    root.addHandler(silent)
    try:
        yield
    finally:
        root.removeHandler(silent)


def is_local_runner(runner: str) -> bool:
    """Whether a runner's workers share this machine with the driver.

    Args:
      runner: its name, as ``--runner`` takes it.
    """
    return runner.rsplit(".", 1)[-1].lower() in LOCAL_RUNNERS
