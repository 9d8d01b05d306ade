"""What the workers' machines need besides Beam, and whether a command brings it there."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from featurestore.io.urls import protocol_of
from pipelines.diagnosis.addresses import EXTRAS, addresses
from pipelines.diagnosis.finding import ERROR, OK, WARNING, Case, Finding

TOPIC = "workers"
_STOCK = re.compile(r"(?:^|/)beam_python(?P<python>3\.\d+)_sdk:(?P<beam>\S+)$")
# The package of each extra that a worker imports.
_PACKAGES = {"gcp": "gcsfs", "s3": "s3fs", "openvino": "openvino", "onnx": "onnxruntime"}
_IMAGE = "--sdk_container_image=IMAGE, built from deploy/docker/cpu.Dockerfile"


def worker_extras(case: Case) -> list[str]:
    """Returns the extras of Hoarfrost that workers need for a command."""
    urls = [url for named in addresses(case).values() for url in named]
    extras = {EXTRAS[protocol] for url in urls if (protocol := protocol_of(url)) in EXTRAS}
    engine = case.options.engine.engine
    if engine in ("openvino", "onnxruntime"):
        extras.add("openvino")
    if engine == "onnxruntime":
        extras.add("onnx")
    return sorted(extras)


def image_findings(case: Case) -> Iterator[Finding]:
    """Says whether the image that workers start holds Hoarfrost and what the command needs.

    For runners that start an image and install the submitted packages into it.
    """
    image = case.flag("sdk_container_image") or ""
    stock = _STOCK.search(image)
    if stock:
        yield from _stock_findings(stock["python"], stock["beam"], case.beam_version)
    if image and not stock:
        yield Finding(OK, TOPIC, f"they start {image}, which must hold this Hoarfrost")
        return
    if case.flag("prebuild_sdk_container_engine"):
        return
    if not (case.flag("setup_file") or case.flag("extra_packages")):
        message = "they would start Beam's stock image, which does not hold Hoarfrost"
        yield Finding(ERROR, TOPIC, message, f"{_IMAGE}; or --setup_file=./setup.py")
        return
    yield from _extra_findings(case)


def _stock_findings(python: str, beam: str, beam_here: str) -> Iterator[Finding]:
    """Compares the versions of Beam's stock image with those of the driver."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if python != here or beam != beam_here:
        message = f"the image has Python {python} and Beam {beam}, the driver {here} and"
        message += f" {beam_here}: what the driver pickles may not load there"
        fix = f"take beam_python{here}_sdk:{beam_here}"
        yield Finding(ERROR, "versions", message, fix)


def _extra_findings(case: Case) -> Iterator[Finding]:
    """Looks for the extras in the requirements file, since a setup file brings none."""
    file = case.flag("requirements_file") or ""
    try:
        lines = Path(file).read_text().splitlines() if file else []
    except OSError as error:
        yield Finding(ERROR, TOPIC, f"--requirements_file {file}: {error.strerror}")
        return
    listed = {re.split(r"[^\w.-]", line.strip(), maxsplit=1)[0].lower() for line in lines}
    missing = [name for name in worker_extras(case) if _PACKAGES[name] not in listed]
    if missing:
        packages = ", ".join(_PACKAGES[name] for name in missing)
        message = "--setup_file installs no extras on the workers, and the command needs "
        fix = f"{_IMAGE}; or --requirements_file=deploy/dataflow/requirements.txt"
        yield Finding(ERROR, TOPIC, message + packages, fix)
    elif "openvino" not in listed and case.options.engine.engine == "auto":
        message = "OpenVINO, the faster engine on most CPUs, is not installed there"
        yield Finding(WARNING, TOPIC, message, f"{_IMAGE}; or name openvino in the requirements")
