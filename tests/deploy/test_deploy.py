"""The files of deploy/ are valid, agree with setup.py and name flags that exist."""

from __future__ import annotations

import importlib.util
import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.commands import ROOT
from support.optional import optional

from featurestore import __version__
from pipelines.extract import parse_options
from pipelines.flags import FLAGS

DEPLOY = ROOT / "deploy"
BEAM = "2.77.0"
DOCKERFILES = sorted((DEPLOY / "docker").glob("*.Dockerfile"))
MANIFESTS = sorted(DEPLOY.glob("*/*.yaml"))
# What the linter asks for, and why it is not done. Beam's boot installs what a job stages, as root
# (DD008). Nothing asks a worker for its health; the runner does (DD012).
NOT_DONE = {"DD008", "DD012"}


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate", DEPLOY / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def kind(path: Path, name: str) -> dict[str, Any]:
    (found,) = [document for document in documents(path) if document["kind"] == name]
    return found


def containers(node: Any) -> list[dict[str, Any]]:
    """Every container of a manifest, wherever in it."""
    if isinstance(node, list):
        return [container for part in node for container in containers(part)]
    if not isinstance(node, dict):
        return []
    found = node.get("containers", []) + node.get("initContainers", [])
    return found + [container for part in node.values() for container in containers(part)]


def test_generated_files_are_those_of_the_flags_and_of_setup(generate):
    for name, make in generate.GENERATED.items():
        assert (DEPLOY / name).read_text() == make(), "run: python deploy/generate.py"


def test_the_template_is_as_dataflow_defines_it():
    dataflow = optional("google.cloud.dataflow")
    text = (DEPLOY / "flex/metadata.json").read_text()
    # Refuses a field or a type that Dataflow does not know.
    metadata = dataflow.TemplateMetadata.from_json(text)
    names = [parameter.name for parameter in metadata.parameters]
    assert {"input", "output", "model", "accelerator", "sdk_container_image"} <= set(names)
    assert set(names) <= set(FLAGS) | {"sdk_container_image"} and len(names) == len(set(names))
    assert all(parameter["helpText"] for parameter in json.loads(text)["parameters"])


def test_a_templates_parameters_become_flags(monkeypatch):
    arguments = runpy.run_path(str(DEPLOY / "flex/launch.py"))["arguments"]
    given = ["--input=gs://a/x gs://b/y", "--output=gs://b/store", "--dedupe=true", "--prune=false"]
    given += ["--storage_options=token=anon", "--batch_size=8", "--region=europe-west4"]
    options, _ = parse_options(list(arguments(given)))
    assert options.inputs == ("gs://a/x", "gs://b/y") and options.chunks.batch_size == 8
    assert options.upkeep.dedupe and not options.upkeep.prune
    assert options.storage_options == {"token": "anon"}
    assert options.beam_arguments == ("--region=europe-west4",)


def test_every_parameter_can_be_given(generate):
    arguments = runpy.run_path(str(DEPLOY / "flex/launch.py"))["arguments"]
    for parameter in json.loads(generate.metadata())["parameters"]:
        values = [option["value"] for option in parameter.get("enumOptions", ())]
        values += [parameter["defaultValue"]] if "defaultValue" in parameter else []
        for value in values:
            parse_options(list(arguments([f"--{parameter['name']}={value}"])))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_dockerfiles_pass_a_linter(path):
    optional("dockerfile_doctor")
    # hadolint is a program of its own that no registry of Python or Node carries.
    command = [sys.executable, "-m", "dockerfile_doctor", "--format", "json", path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    found = json.loads(done.stdout)
    issues = [issue for file in found["files"] for issue in file["issues"]]
    left = [issue for issue in issues if issue["severity"] != "info"]
    assert not {issue["ruleId"] for issue in left} - NOT_DONE, left


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_dockerfiles_copy_what_is_there(path):
    optional("dockerfile")
    # BuildKit's own parser. Its Go runtime can end a process that has other runtimes in it.
    script = (
        "import dockerfile, json, sys; "
        "print(json.dumps([(c.cmd, c.flags, c.value) for c in dockerfile.parse_file(sys.argv[1])]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, path], capture_output=True, timeout=60, check=True
    )
    commands = json.loads(done.stdout)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for name, flags, words in commands:
        if name.upper() == "COPY" and not flags:
            for source in words[:-1]:
                assert (ROOT / source).exists() and f"!{source}" in ignored, source
    instructions = [name.upper() for name, _, _ in commands]
    assert instructions.count("ENTRYPOINT") == (path.stem.split(".")[0] != "flex")


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_dockerfiles_have_the_versions_of_setup(path, generate):
    text = path.read_text()
    name = f"hoarfrost-{path.stem.split('.')[0]}"
    assert f'title="{name}"' in text and f'image.version="{__version__}"' in text
    assert f"--tag {name}:{__version__} ." in text
    assert set(re.findall(r"hoarfrost-\w+:(\S+)", text)) == {__version__}
    assert set(re.findall(r"beam_python3\.11_sdk:(\S+)", text)) <= {BEAM}
    for extras in re.findall(r'"\.\[(.+)\]"', text):
        assert set(extras.split(",")) <= set(generate.extras())


def test_the_version_of_beam_is_the_one_that_is_installed_and_allowed():
    from importlib import metadata

    assert metadata.version("apache-beam") == BEAM
    assert f"apache-beam=={BEAM}" in (ROOT / "constraints.txt").read_text().splitlines()
    minor = BEAM.rpartition(".")[0]
    assert f'"apache-beam>={minor},' in (ROOT / "setup.py").read_text()


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_manifests_name_images_that_exist(path):
    for container in containers(documents(path)):
        image = container.get("image")
        if image is None:
            assert container["name"] == "flink-main-container"
        elif image.startswith("hoarfrost"):
            assert image == f"hoarfrost-cpu:{__version__}"
        else:
            assert image == f"apache/beam_flink1.20_job_server:{BEAM}"


def validate(document: dict[str, Any]) -> None:
    """Holds a manifest against Kubernetes's own schema; refuses unknown fields."""
    kubernetes = optional("kubernetes_validate")
    kubernetes.validate(document, kubernetes.latest_version(), strict=True)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_manifests_are_as_kubernetes_defines_them(path):
    for document in documents(path):
        group = document["apiVersion"].partition("/")[0]
        if group in ("v1", "batch"):
            # A job whose name is generated has none yet.
            document["metadata"].setdefault("name", document["metadata"].pop("generateName", "x"))
            validate(document)


def as_pod(spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}


def test_pods_inside_custom_resources_are_as_kubernetes_defines_them():
    flink = kind(DEPLOY / "flink/cluster.yaml", "FlinkDeployment")["spec"]
    dask = kind(DEPLOY / "dask/cluster.yaml", "DaskCluster")["spec"]
    for spec in (flink["podTemplate"]["spec"], flink["taskManager"]["podTemplate"]["spec"]):
        validate(as_pod(spec))
    for part in ("worker", "scheduler"):
        validate(as_pod(dask[part]["spec"]))
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "scheduler"}}
    validate({**service, "spec": dask["scheduler"]["service"]})


def test_each_taskmanager_has_a_pool_of_its_own():
    spec = kind(DEPLOY / "flink/cluster.yaml", "FlinkDeployment")["spec"]
    beside = {one["name"]: one for one in containers(spec["taskManager"]["podTemplate"])}
    pool = beside["worker-pool"]
    assert pool["args"] == ["--worker_pool"] and "command" not in pool
    shared = [one["name"] for one in containers([spec["podTemplate"], spec["jobManager"]])]
    assert shared == ["flink-main-container"]
    port = pool["ports"][0]["containerPort"]
    job = kind(DEPLOY / "flink/job.yaml", "Job")
    (extract,) = [one for one in containers(job) if one["name"] == "extract"]
    assert f"--environment_config=localhost:{port}" in extract["args"]
    assert f"--parallelism={spec['taskManager']['replicas']}" in extract["args"]
    configuration = spec["flinkConfiguration"]
    assert configuration["restart-strategy.type"] == "fixed-delay"
    assert spec["flinkVersion"] == "v1_20" and spec["image"].startswith("flink:1.20-")


def test_what_a_job_stages_is_seen_by_the_taskmanagers():
    cluster = kind(DEPLOY / "flink/cluster.yaml", "FlinkDeployment")["spec"]
    job = kind(DEPLOY / "flink/job.yaml", "Job")["spec"]["template"]["spec"]
    claim = kind(DEPLOY / "flink/cluster.yaml", "PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    volumes = cluster["podTemplate"]["spec"]["volumes"]
    assert volumes == job["volumes"]
    assert volumes[0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    (server,) = job["initContainers"]
    mounts = cluster["podTemplate"]["spec"]["containers"][0]["volumeMounts"]
    assert mounts == server["volumeMounts"]
    assert f"--artifacts-dir={mounts[0]['mountPath']}" in server["args"]


def test_a_worker_of_dask_has_a_thread_for_each_core():
    spec = kind(DEPLOY / "dask/cluster.yaml", "DaskCluster")["spec"]["worker"]["spec"]
    (worker,) = spec["containers"]
    threads = worker["args"][worker["args"].index("--nthreads") + 1]
    assert threads == worker["resources"]["limits"]["cpu"]


def commands() -> list[tuple[str, list[str]]]:
    """Every command of ours in a manifest or in the compose file."""
    found = []
    for path in MANIFESTS:
        for one in containers(documents(path)):
            if one.get("command", [])[:2] == ["python", "-m"]:
                found.append((path.parent.name, [*one["command"], *one["args"]]))
    for name, service in documents(DEPLOY / "compose.yaml")[0]["services"].items():
        if service["entrypoint"][:2] == ["python", "-m"]:
            found.append((name, [*service["entrypoint"], *service["command"]]))
    return found


@pytest.mark.parametrize("name, command", commands(), ids=lambda value: str(value)[:12])
def test_flags_exist(name, command):
    if "dask" in name:
        optional("distributed")
        # Beam knows Dask's flags once its runner is imported.
        importlib.import_module("apache_beam.runners.dask.dask_runner")
    assert command[2] == "pipelines.extract"
    parse_options(command[3:])


def documented() -> list[tuple[str, list[str]]]:
    """Every complete command of ours in the pages: (page, arguments)."""
    found = []
    for page in ("README.md", "docs/deploy.md", "docs/flink.md"):
        text = (ROOT / page).read_text().replace("\\\n", " ")
        for line in re.findall(
            r"^python -m pipelines\.(?:extract|doctor) (.*)", text, re.MULTILINE
        ):
            if "..." not in line.replace("=...", "="):
                found.append((page, shlex.split(line, comments=True)))
    return found


@pytest.mark.parametrize("page, arguments", documented(), ids=lambda value: str(value)[:14])
def test_commands_of_the_pages_are_accepted(page, arguments):
    parse_options(arguments)


def test_the_compose_file_is_one_image_and_one_view_of_the_folders():
    compose = documents(DEPLOY / "compose.yaml")[0]
    services = compose["services"]
    assert {one["image"] for one in services.values()} == {f"hoarfrost-cpu:{__version__}"}
    for service in services.values():
        dockerfile = (
            DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]
        ).resolve()
        assert dockerfile in DOCKERFILES
        assert service["volumes"] == compose["x-hoarfrost"]["volumes"]
        assert set(service.get("depends_on", ())) <= set(services)
