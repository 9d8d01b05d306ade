"""The doctor finds what a machine and a command would run into, each with its fix."""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from support.commands import assert_one_line_error

from pipelines.diagnosis import addresses, machine, packages, portable
from pipelines.diagnosis.finding import ERROR, OK, WARNING, Finding
from pipelines.doctor import examine

STOCK = f"apache/beam_python{sys.version_info.major}.{sys.version_info.minor}_sdk"


def findings(*arguments: str) -> list[Finding]:
    return examine(arguments)[0]


def assert_found(found: list[Finding], severity: str, *words: str) -> None:
    """One finding of that severity has all the words, in its message or its fix."""
    texts = [str(finding) for finding in found if finding.severity == severity]
    assert any(all(word in text for word in words) for text in texts), (words, found)


DATAFLOW = ("--runner=DataflowRunner", "--project=some-project", "--region=europe-west4")
DATAFLOW += ("--temp_location=gs://bucket/tmp",)
FLINK = ("--runner=FlinkRunner", "--flink_master=localhost:1", "--job_endpoint=localhost:1")


@pytest.mark.parametrize(
    "arguments, severity, words",
    [
        (("--input", "nowhere"), ERROR, ("nowhere does not exist", "correct")),
        (("--output", "file/store"), ERROR, ("--output file/store", "not writable", "choose")),
        (("--output", "no://where"), ERROR, ("no://where", "protocol")),
        (("--output", "smb://h/x"), ERROR, ("needs a package", "install what smb:// needs")),
        (DATAFLOW[:1], ERROR, ("--project is missing", "--project=")),
        (DATAFLOW[:1], ERROR, ("--region is missing", "--region=")),
        (DATAFLOW[:1], ERROR, ("--temp_location is missing", "gs://BUCKET/tmp")),
        ((*DATAFLOW, "--temp_location=/tmp"), ERROR, ("must be on Google Cloud Storage",)),
        ((*DATAFLOW, "--output", "out"), ERROR, ("--output out", "do not see", "gs://")),
        ((*DATAFLOW, "--input", "in"), ERROR, ("--input in", "do not see", "gs://")),
        (DATAFLOW, ERROR, ("does not hold Hoarfrost", "--sdk_container_image", "--setup_file")),
        ((*DATAFLOW, "--sdk_container_image=eu/hoarfrost:1"), OK, ("eu/hoarfrost:1",)),
        ((*DATAFLOW, f"--sdk_container_image={STOCK}:2.77.0"), ERROR, ("does not hold",)),
        ((*DATAFLOW, f"--sdk_container_image={STOCK}:2.60.0"), ERROR, ("Beam 2.60.0", "take")),
        (
            (*DATAFLOW, "--sdk_container_image=apache/beam_python3.9_sdk:2.77.0"),
            ERROR,
            ("Python 3.9", "take"),
        ),
        (
            (*DATAFLOW, "--setup_file=./setup.py", "--output", "gs://b/o"),
            ERROR,
            ("installs no extras", "gcsfs", "requirements.txt"),
        ),
        (
            (*DATAFLOW, "--setup_file=./setup.py", "--engine", "openvino"),
            ERROR,
            ("installs no extras", "openvino"),
        ),
        (
            (*DATAFLOW, "--setup_file=./setup.py", "--engine", "onnxruntime"),
            ERROR,
            ("installs no extras", "onnxruntime, openvino"),
        ),
        ((*DATAFLOW, "--setup_file=./setup.py"), WARNING, ("OpenVINO", "is not installed there")),
        (
            (*DATAFLOW, "--setup_file=./setup.py", "--requirements_file=gone.txt"),
            ERROR,
            ("gone.txt",),
        ),
        (
            (*DATAFLOW, "--experiments=use_multiple_sdk_containers"),
            WARNING,
            ("process per core", "leave"),
        ),
        (
            (*DATAFLOW, "--accelerator", "type:nvidia-l4;count:1"),
            ERROR,
            ("without a driver", "'type:nvidia-l4;count:1;install-nvidia-driver'"),
        ),
        (FLINK, ERROR, ("no answer from http://localhost:1", "start the cluster")),
        (FLINK, ERROR, ("one slot", "--parallelism=N")),
        (FLINK, ERROR, ("no --environment_type", "EXTERNAL", "PROCESS", "docs/flink.md")),
        ((*FLINK, "--environment_type=LOOPBACK"), WARNING, ("LOOPBACK", "EXTERNAL")),
        ((*FLINK, "--environment_type=EXTERNAL"), ERROR, ("HOST:PORT", "worker_pool_main")),
        (
            (*FLINK, "--environment_type=PROCESS", "--environment_config=boot"),
            ERROR,
            ("JSON", "boot"),
        ),
        (
            (*FLINK, "--environment_type=EXTERNAL", "--environment_config=localhost:50000"),
            OK,
            ("EXTERNAL localhost:50000",),
        ),
        ((*FLINK, "--environment_type=DOCKER"), ERROR, ("stock image", "--sdk_container_image")),
        ((*FLINK, "--output", "out"), WARNING, ("--output out", "mount", "s3://")),
        (("--runner=FlinkRunner",), WARNING, ("no --flink_master", "HOST:8081")),
        (
            ("--runner=FlinkRunner", "--flink_job_server_jar=gone.jar"),
            ERROR,
            ("gone.jar does not exist",),
        ),
        (
            ("--runner=FlinkRunner", "--job_server_java_launcher=no-such-java"),
            ERROR,
            ("no-such-java", "install a Java runtime"),
        ),
        (
            ("--runner=PortableRunner", "--job_endpoint=localhost:1"),
            ERROR,
            ("--job_endpoint localhost:1", "no connection"),
        ),
        (("--no_such_flag=1",), ERROR, ("unknown flag '--no_such_flag'",)),
    ],
)
def test_each_finding_comes_with_its_fix(arguments, severity, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert_found(findings(*arguments), severity, *words)


def test_flink_versions_without_a_job_server_are_found():
    # Beam's own parser refuses them too, so no flag can bring one here today.
    from pipelines.diagnosis.finding import Case

    case = Case(
        runner="flink", flags={"flink_version": "1.7"}, beam_version="2", flink_versions=("1.20",)
    )
    assert_found(list(portable.flink_findings(case)), ERROR, "Flink 1.7", "--flink_version=1.20")


def test_a_requirements_file_that_names_the_extras_is_enough(tmp_path):
    file = tmp_path / "requirements.txt"
    file.write_text("# what extras add\ngcsfs>=2024.9\nopenvino>=2026.4,<2027\n")
    flags = (*DATAFLOW, "--setup_file=./setup.py", "--output", "gs://b/o")
    found = findings(*flags, f"--requirements_file={file}")
    assert not [finding for finding in found if finding.topic == "workers"], found


@pytest.mark.parametrize("version, expected", [("1.20", OK), ("2.0", ERROR)])
def test_a_master_says_which_flink_it_runs(version, expected):
    answer = {"flink-version": "1.20.5", "taskmanagers": 2, "slots-total": 4}
    with overview(answer) as address:
        found = list(portable.master_findings(address, version))
    assert [finding.severity for finding in found] == [expected]
    assert "Flink 1.20.5 with 2 TaskManagers, 4 slots" in found[0].message
    if expected == ERROR:
        assert "--flink_version=1.20" in found[0].fix


def test_a_master_without_slots_is_an_error():
    with overview({"flink-version": "1.20.5", "taskmanagers": 0, "slots-total": 0}) as address:
        found = list(portable.master_findings(address, "1.20"))
    assert_found(found, ERROR, "nothing can run", "start TaskManagers")


class overview:
    """Answers as a JobManager does, at `address`."""

    def __init__(self, answer: dict) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> str:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"127.0.0.1:{self._server.server_port}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.mark.parametrize(
    "requirement, version, severity",
    [
        ("tensorflow<2.22,>=2.21", "2.21.0", None),
        ("tensorflow<2.22,>=2.21", "2.15.0", ERROR),
        ("tensorflow<2.22,>=2.21", None, ERROR),
        ('s3fs>=2024.9; extra == "s3"', None, None),
    ],
)
def test_requirements_are_compared_with_what_is_installed(requirement, version, severity):
    found = list(packages.requirement_findings([requirement], lambda name: version))
    assert [finding.severity for finding in found] == [severity] * (severity is not None)
    for finding in found:
        assert "python -m pip install 'tensorflow" in finding.fix


@pytest.mark.parametrize(
    "engine, severity",
    [("auto", WARNING), ("openvino", ERROR), ("tensorflow", WARNING), ("onnxruntime", ERROR)],
)
def test_a_missing_openvino_is_found(engine, severity, monkeypatch):
    monkeypatch.setattr(packages, "has_module", lambda name: False)
    assert_found(findings("--engine", engine), severity, "OpenVINO", "hoarfrost[openvino]")


def test_onnx_runtime_needs_two_packages(monkeypatch):
    monkeypatch.setattr(packages, "has_module", lambda name: name != "onnx")
    assert_found(findings("--engine", "onnxruntime"), ERROR, "onnxruntime", "hoarfrost[onnx]")
    assert not any("onnx" in each.message for each in findings("--engine", "openvino"))


def test_dask_is_looked_at(monkeypatch):
    flags = ("--runner=DaskRunner", "--dask_client_address=tcp://localhost:1")
    assert_found(findings(*flags), ERROR, "--dask_client_address", "no connection")
    monkeypatch.setattr("pipelines.diagnosis.diagnose.has_module", lambda name: False)
    assert_found(findings(*flags), ERROR, "dask[distributed]", "hoarfrost[dask]")


def test_int8_without_its_library_is_an_error(monkeypatch):
    monkeypatch.setattr(packages, "has_module", lambda name: name != "nncf")
    assert_found(findings("--precision", "int8"), ERROR, "NNCF", "hoarfrost[openvino]")


def test_a_missing_file_system_names_its_extra(monkeypatch):
    def missing(protocol: str) -> None:
        raise ImportError(f"install {protocol}")

    monkeypatch.setattr(addresses.fsspec, "get_filesystem_class", missing)
    found = findings("--input", "s3://bucket/in", "--output", "gs://bucket/out")
    assert_found(found, ERROR, "--input s3://bucket/in", "hoarfrost[s3]")
    assert_found(found, ERROR, "--output gs://bucket/out", "hoarfrost[gcp]")


@pytest.fixture
def no_credentials(tmp_path, monkeypatch):
    """A user without any credentials."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))


def test_missing_credentials_are_found(no_credentials, monkeypatch):
    # Its package may be missing here.
    monkeypatch.setattr(addresses.fsspec, "get_filesystem_class", lambda protocol: None)
    found = findings("--input", "gs://bucket/in", "--output", "s3://bucket/out")
    assert_found(found, WARNING, "--input gs://bucket/in", "no credentials", "gcloud auth")
    assert_found(found, WARNING, "--output s3://bucket/out", "no credentials", "AWS_ACCESS_KEY_ID")
    anonymous = findings("--output", "s3://bucket/out", "--storage_options", "anon=true")
    assert not [finding for finding in anonymous if finding.topic == "credentials"]


def test_credentials_are_found_where_they_are(no_credentials, tmp_path, monkeypatch):
    assert not addresses.has_s3_credentials() and not addresses.has_google_credentials()
    (tmp_path / "application_default_credentials.json").write_text("{}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert addresses.has_s3_credentials() and addresses.has_google_credentials()
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "gone.json"))
    assert not addresses.has_google_credentials()


def test_servers_that_only_this_machine_knows_are_found():
    set_here = {"AWS_ENDPOINT_URL_S3": "http://store:9000"}
    found = list(addresses.endpoint_findings({}, set_here))
    fix = "--storage_options endpoint_url=http://store:9000"
    assert_found(found, ERROR, "AWS_ENDPOINT_URL_S3", "do not get", fix)
    local = {"endpoint_url": "http://localhost:9000"}
    found = list(addresses.endpoint_findings(local, set_here))
    assert_found(found, WARNING, "localhost:9000", "as workers reach it")
    assert not list(addresses.endpoint_findings({"endpoint_url": "http://store:9000"}, set_here))


def test_limits_of_the_container_are_shown(monkeypatch):
    monkeypatch.setattr(machine, "container_limit", lambda: 1.5)
    assert_found(findings(), OK, "limit of 1.5")


def test_too_little_memory_is_found():
    few = list(machine.memory_findings(5 << 30, 4))
    assert_found(few, WARNING, "4 worker processes", "--direct_num_workers=2")
    assert_found(list(machine.memory_findings(1 << 30, 1)), WARNING, "more memory")
    assert_found(list(machine.memory_findings(8 << 30, 4)), OK, "4 worker processes")


@pytest.mark.parametrize(
    "devices, driver, cuda, severity, words",
    [
        ([], "", False, OK, ("none",)),
        (["/dev/nvidia0"], "", True, ERROR, ("no driver", "container toolkit")),
        (["/dev/nvidia0"], "Kernel Module  470.82.01", True, ERROR, ("525.60.13", "newer")),
        (["/dev/nvidia0"], "Module  535.129.03  x", False, WARNING, ("CPU", "hoarfrost[gpu]")),
        (["/dev/nvidia0"] * 2, "Module  535.129.03", True, OK, ("2 NVIDIA devices", "535")),
    ],
)
def test_gpus_need_a_driver_and_libraries(devices, driver, cuda, severity, words):
    assert_found(list(machine.gpu_findings(devices, driver, cuda)), severity, *words)


def test_the_command_prints_json_and_ends_with_its_code(command):
    well = command("pipelines.doctor", "--json")
    assert well.code == 0, well
    record = json.loads(well.out)
    assert record["errors"] == 0 and {"severity", "topic", "message", "fix"} == set(
        record["findings"][0]
    )
    ill = command("pipelines.doctor", "--input", "nowhere")
    assert ill.code == 1 and "error: paths: --input nowhere does not exist\n  fix: " in ill.out
    assert ill.out.strip().endswith("1 errors, 0 warnings")


@pytest.mark.parametrize("arguments", [("--views", "x"), ("--direct_num_workers=x",)])
def test_a_bad_value_is_one_line(command, arguments):
    assert_one_line_error(command("pipelines.doctor", *arguments), 2, arguments[0].split("=")[0])
