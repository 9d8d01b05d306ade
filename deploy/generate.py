"""Writes the files of deploy/ that follow from the flags of an extraction and from setup.py.

    python deploy/generate.py

They are flex/metadata.json and dataflow/requirements.txt; a test compares them with this.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from pipelines.flags import FLAGS, default_of  # noqa: E402

# A template shows no plan, and never waits.
LEFT_OUT = ("plan", "no_wait")
# The extras that a worker of Dataflow imports, and what it does not need of them: the stock image
# has Beam with its own extra, and a model is quantised by the driver.
WORKER_EXTRAS = ("gcp", "openvino")
UNUSED = ("apache-beam", "nncf")
IMAGE = {
    "name": "sdk_container_image",
    "label": "sdk_container_image",
    "helpText": "image of the workers: the template's own, or that of gpu.Dockerfile",
    "isOptional": True,
    "paramType": "TEXT",
}


def extras() -> dict[str, list[str]]:
    """Returns the extras that setup.py lists itself: their names and requirements."""
    for node in ast.parse((HERE.parent / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "EXTRAS":
            return ast.literal_eval(node.value)
    raise LookupError("setup.py has no EXTRAS")


def parameter(name: str) -> dict[str, Any]:
    """Returns a flag as a parameter of a Flex Template, for `gcloud dataflow flex-template`."""
    flag, default = FLAGS[name], default_of(name)
    about: dict[str, Any] = {
        "name": name,
        "label": name,
        "helpText": " ".join(flag.help.split()) or f"as --{name} of pipelines.extract",
        # The driver of a template has no folder of its own to write to.
        "isOptional": name not in ("input", "output"),
        "paramType": "TEXT",
    }
    if isinstance(default, bool):
        about["paramType"] = "BOOLEAN"
    elif isinstance(default, int | float):
        about["paramType"] = "NUMBER"
    # A choice with a part in capitals, such as crop:N, stands for many.
    elif isinstance(flag.values, tuple) and all(map(str.islower, flag.values)):
        options = [{"value": value, "label": value} for value in flag.values]
        about |= {"paramType": "ENUM", "enumOptions": options}
    if isinstance(default, list):
        about["helpText"] += "; several are separated by blanks"
    elif default and about["isOptional"]:
        about["defaultValue"] = str(default).lower() if default is True else str(default)
    return about


def metadata() -> str:
    """Returns flex/metadata.json."""
    described = {
        "name": "Hoarfrost",
        "description": "Runs a frozen conv base over every image once, into a feature store.",
        "parameters": [*(parameter(name) for name in FLAGS if name not in LEFT_OUT), IMAGE],
    }
    return json.dumps(described, indent=2) + "\n"


def requirements() -> str:
    """Returns dataflow/requirements.txt: what --setup_file does not install on workers."""
    needed = [line for name in WORKER_EXTRAS for line in extras()[name]]
    return "".join(f"{line}\n" for line in needed if not line.startswith(UNUSED))


GENERATED = {"flex/metadata.json": metadata, "dataflow/requirements.txt": requirements}

if __name__ == "__main__":
    for name, make in GENERATED.items():
        (HERE / name).parent.mkdir(exist_ok=True)
        (HERE / name).write_text(make())
