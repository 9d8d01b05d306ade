"""What Dataflow would refuse, or bill for nothing."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.diagnosis.finding import ERROR, OK, WARNING, Case, Finding
from pipelines.diagnosis.packages import extra, has_module
from pipelines.diagnosis.workers import image_findings

TOPIC = "dataflow"
_FIXES = {
    "project": "--project=YOUR_PROJECT",
    "region": "--region=REGION, the one of your buckets",
    "temp_location": "--temp_location=gs://BUCKET/tmp",
}


def dataflow_findings(case: Case) -> Iterator[Finding]:
    """Looks at the flags of a job on Dataflow."""
    if not has_module("google.cloud.dataflow"):
        message = "Beam's Dataflow runner needs Google Cloud's libraries"
        yield Finding(ERROR, "packages", message, extra("gcp"))
    missing = [name for name in _FIXES if not case.flag(name)]
    for name in missing:
        yield Finding(ERROR, TOPIC, f"--{name} is missing", f"add {_FIXES[name]}")
    temporary = case.flag("temp_location") or "gs://"
    if not temporary.startswith("gs://"):
        message = f"--temp_location must be on Google Cloud Storage, got {temporary}"
        yield Finding(ERROR, TOPIC, message, _FIXES["temp_location"])
    if "use_multiple_sdk_containers" in (case.flag("experiments") or []):
        message = "use_multiple_sdk_containers starts a process per core, each with its own base"
        yield Finding(WARNING, TOPIC, message, "leave that experiment out")
    accelerator = case.options.remote.accelerator
    if accelerator and "install-nvidia-driver" not in accelerator:
        message = f"--accelerator {accelerator}: the workers would have a GPU without a driver"
        fix = f"--accelerator '{accelerator};install-nvidia-driver'"
        yield Finding(ERROR, "gpu", message, fix)
    if not missing:
        yield Finding(OK, TOPIC, f"project {case.flag('project')}, region {case.flag('region')}")
    yield from image_findings(case)
