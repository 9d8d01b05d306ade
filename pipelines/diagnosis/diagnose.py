"""Looks at a command from every side."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pipelines.diagnosis.addresses import address_findings
from pipelines.diagnosis.dataflow import dataflow_findings
from pipelines.diagnosis.finding import ERROR, OK, Case, Finding
from pipelines.diagnosis.machine import machine_findings
from pipelines.diagnosis.packages import extra, has_module, package_findings
from pipelines.diagnosis.portable import flink_findings, portable_findings, reach_findings


def diagnose(case: Case) -> Iterator[Finding]:
    """Yields what a machine and a command would run into, and what is well."""
    yield from package_findings(case)
    yield from machine_findings(case)
    yield from address_findings(case)
    yield from _RUNNERS.get(case.runner, _other_findings)(case)


def _dask_findings(case: Case) -> Iterator[Finding]:
    """Looks at a job on Dask."""
    if not has_module("distributed"):
        message = "Beam's Dask runner needs dask[distributed]"
        yield Finding(ERROR, "packages", message, extra("dask"))
    if address := case.flag("address"):
        yield from reach_findings("--dask_client_address", address)


def _other_findings(case: Case) -> Iterator[Finding]:
    """Says which runner was named, for those that nothing is known about."""
    yield Finding(OK, "runner", f"{case.runner}: nothing about it is checked")


def _direct_findings(case: Case) -> Iterator[Finding]:
    yield Finding(OK, "runner", "Beam's local runner, on this machine")


_RUNNERS: dict[str, Callable[[Case], Iterator[Finding]]] = {
    "dask": _dask_findings,
    "dataflow": dataflow_findings,
    "direct": _direct_findings,
    "flink": flink_findings,
    "portable": portable_findings,
    "prism": portable_findings,
}
