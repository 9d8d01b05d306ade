"""Whether the packages that a command needs are installed, in versions that work together."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from importlib.util import find_spec

from packaging.requirements import Requirement

from pipelines.diagnosis.finding import ERROR, OK, WARNING, Case, Finding

TOPIC = "packages"
# The main libraries, as the first line shows them.
_SHOWN = ("apache-beam", "tensorflow", "openvino")


def installed_version(name: str) -> str | None:
    """Returns the version of an installed distribution, without importing it; None if absent."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def has_module(name: str) -> bool:
    """Whether a module could be imported; its parents are imported, it is not."""
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def extra(name: str) -> str:
    """Returns the command that installs an extra of Hoarfrost."""
    return f"python -m pip install 'hoarfrost[{name}]'"


def package_findings(case: Case) -> Iterator[Finding]:
    """Compares what is installed with what Hoarfrost and the command need."""
    versions = [f"{name} {version}" for name in _SHOWN if (version := installed_version(name))]
    yield Finding(OK, TOPIC, ", ".join([f"Python {platform.python_version()}", *versions]))
    try:
        needed = metadata.requires("hoarfrost") or []
    except metadata.PackageNotFoundError:
        fix = "python -m pip install --editable . in the checkout"
        yield Finding(WARNING, TOPIC, "hoarfrost is not installed; versions are unchecked", fix)
        needed = []
    yield from requirement_findings(needed, installed_version)
    yield from _engine_findings(case)


def requirement_findings(
    needed: Iterable[str], version_of: Callable[[str], str | None]
) -> Iterator[Finding]:
    """Yields an error for each requirement, outside the extras, that is not met.

    Args:
      needed: requirements as packages state them.
      version_of: returns the installed version of a package, or None.
    """
    for requirement in map(Requirement, needed):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = version_of(requirement.name)
        if version and requirement.specifier.contains(version, prereleases=True):
            continue
        wanted = f"{requirement.name}{requirement.specifier}"
        found = f"{version} is installed" if version else "it is not installed"
        fix = f"python -m pip install '{wanted}'"
        yield Finding(ERROR, TOPIC, f"Hoarfrost needs {wanted}, and {found}", fix)


def _engine_findings(case: Case) -> Iterator[Finding]:
    """Says whether the engines that the command may use are there, on this machine only."""
    engine, precision = case.options.engine.engine, case.options.engine.precision
    if not case.runs_here:
        return
    if not has_module("openvino"):
        message = "OpenVINO, the faster engine on most CPUs, is not installed"
        # ONNX Runtime computes what OpenVINO has read.
        severity = ERROR if engine in ("openvino", "onnxruntime") else WARNING
        yield Finding(severity, TOPIC, message, extra("openvino"))
    elif precision == "int8" and not has_module("nncf"):
        yield Finding(ERROR, TOPIC, "--precision int8 needs NNCF", extra("openvino"))
    if engine == "onnxruntime" and not (has_module("onnx") and has_module("onnxruntime")):
        message = "--engine onnxruntime needs the packages onnx and onnxruntime"
        yield Finding(ERROR, TOPIC, message, extra("onnx"))
