"""The Flex Template's entry submits a job and returns; the store says how far it is."""

from __future__ import annotations

import os
import subprocess
import sys

import s3fs
from support.commands import ROOT, run_command
from support.images import write_images
from support.optional import optional

optional("google.cloud.dataflow")

PARAMETERS = {
    "model": "MobileNetV2",
    "weights": "none",
    "pooling": "avg",
    "image_size": "32",
    "dedupe": "false",
    "runner": "DataflowRunner",
    "project": "some-project",
    "region": "europe-west4",
    "temp_location": "gs://bucket/tmp",
    "sdk_container_image": "europe-docker.pkg.dev/some-project/hoarfrost/hoarfrost-flex:0.2.0",
    # Builds the job, and does not send it.
    "dry_run": "True",
    "no_auth": "",
}


def test_a_template_submits_and_returns(bucket, tmp_path):
    url, options = bucket
    write_images(tmp_path / "photos", 4)
    s3fs.S3FileSystem(**options).put(f"{tmp_path}/photos", f"{url}/photos", recursive=True)
    given = {**PARAMETERS, "input": f"{url}/photos", "output": f"{url}/store"}
    launch = ROOT / "deploy/flex/launch.py"
    done = subprocess.run(
        [sys.executable, launch, *(f"--{k}={v}" if v else f"--{k}" for k, v in given.items())],
        cwd=tmp_path,
        # Google's launcher sets the second one.
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "FLEX_TEMPLATE_PYTHON_PY_FILE": str(launch),
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "extracting 4 images" in done.stdout, done.stdout
    info = run_command("featurestore", "info", f"{url}/store", cwd=tmp_path)
    assert info.code == 0 and "0 of" in info.out, info
