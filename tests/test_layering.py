"""Imports go down only, and answering --help loads nothing heavy."""

import subprocess
import sys

import pytest
from support.commands import ROOT

HEAVY = ("tensorflow", "keras", "apache_beam", "matplotlib", "cv2", "openvino", "nncf", "scipy")


def loaded(statement: str) -> set[str]:
    script = f"import sys\n{statement}\nprint(*{{m.split('.')[0] for m in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module, absent",
    [
        ("featurestore", {*HEAVY, "classifier", "pipelines"}),
        ("featurestore.info", {*HEAVY, "classifier", "pipelines"}),
        ("featurestore.checking.verify", {*HEAVY, "classifier", "pipelines"}),
        ("featurestore.export", {*HEAVY, "classifier", "pipelines"}),
        ("featurestore.relabel", {*HEAVY, "classifier", "pipelines"}),
        ("classifier.verify", {"tensorflow", "keras", "apache_beam", "pipelines", "matplotlib"}),
        ("pipelines.pack", {"tensorflow", "keras", "apache_beam"}),
        ("classifier.train", {*HEAVY, "pipelines", "jinja2"} - {"cv2"}),
        ("classifier.report", {*HEAVY, "pipelines", "jinja2"} - {"cv2"}),
        ("classifier.inputs", {"tensorflow", "keras", "apache_beam", "pipelines"}),
        ("pipelines.extract", {"tensorflow", "keras", "apache_beam", "openvino", "nncf"}),
        ("pipelines.ridge", {"tensorflow", "keras", "apache_beam"}),
        ("pipelines.beam.ridge", {"tensorflow", "keras"}),
        ("pipelines.planning.plan", {"tensorflow", "keras", "apache_beam"}),
        ("pipelines.beam.transforms", {"tensorflow", "keras", "openvino", "nncf"}),
    ],
)
def test_imports_go_down_only(module, absent):
    assert not absent & loaded(f"import {module}")


@pytest.mark.parametrize(
    "module",
    [
        "pipelines.extract",
        "pipelines.demo",
        "pipelines.pack",
        "pipelines.ridge",
        "classifier.verify",
        "featurestore",
        "classifier.bases",
        "classifier.train",
        "classifier.evaluate",
        "classifier.predict",
        "classifier.show",
        "classifier.report",
    ],
)
def test_help_loads_nothing_heavy(module):
    run = f"import runpy\nsys.argv = ['x', '--help']\ntry: runpy.run_module('{module}', "
    run += "run_name='__main__')\nexcept SystemExit as end: assert not end.code, end.code"
    assert not {*HEAVY} - {"cv2"} & loaded(run)
