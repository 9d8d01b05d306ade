"""What surrounds the code is true: hooks, licence, worked examples, what tests leave behind."""

import ast
import base64
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import yaml
from support.commands import ROOT
from support.images import png_bytes
from support.longest import LONGEST
from support.optional import optional

PACKAGES = ("featurestore", "classifier", "pipelines")
HELPER = ROOT / "tests" / "optional.py"


def worked_example(name: str) -> str:
    """The code block of CONTRIBUTING.md that is marked with a name."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    found = re.search(rf"<!-- example: {name} -->\n```python\n(.*?)```", text, re.DOTALL)
    assert found, name
    return found.group(1)


def run_example(name: str) -> dict:
    scope: dict = {"__name__": f"example_{name}"}
    exec(compile(worked_example(name), f"CONTRIBUTING.md: {name}", "exec"), scope)
    return scope


def test_a_new_input_format_is_what_contributing_says(tmp_path, monkeypatch):
    from classifier.inputs import ShardDamaged, iter_shard
    from classifier.inputs.refs import SHARD_SUFFIXES
    from classifier.inputs.shards import READERS
    from featurestore.ignored import Ignored

    monkeypatch.setitem(SHARD_SUFFIXES, ".jsonl", "jsonl")
    monkeypatch.setitem(READERS, "jsonl", run_example("format")["iter_jsonl"])
    image = png_bytes(np.zeros((4, 4, 3), np.uint8))
    record = {"name": "a.png", "label": "cat", "image": base64.b64encode(image).decode()}
    lines = [json.dumps(record), json.dumps(record), json.dumps({"text": "no image"})]
    (tmp_path / "some.jsonl").write_text("\n".join(lines))
    (tmp_path / "cut.jsonl").write_text("\n".join([lines[0], lines[1][:20]]))

    whole, cut = (shard_of(tmp_path / name) for name in ("some.jsonl", "cut.jsonl"))
    ignored = Ignored()
    found = list(iter_shard(whole, None, ignored))
    assert [ref.key for ref, _ in found] == ["some.jsonl/a.png", "some.jsonl/1"]
    assert all(data == image and ref.labels == ("cat",) for ref, data in found)
    assert ignored.names == ["some.jsonl/2"]
    with pytest.raises(ShardDamaged, match="line 1 is not JSON"):
        list(iter_shard(cut, None, Ignored()))


def shard_of(path):
    from classifier.inputs.refs import ShardRef, shard_format

    kind = shard_format(path.name)
    return ShardRef(path.name, f"file://{path}", path.stat().st_size, "1", kind)


def test_a_new_base_is_a_row_as_contributing_says():
    from classifier.base import families

    row = ast.literal_eval(worked_example("base"))
    first = families._FAMILIES[0]
    assert [type(value) for value in row] == [type(value) for value in first]
    module, preprocess, least, sizes = row
    for name, size in sizes.items():
        assert families.Application(name, module, preprocess, size, least).image_size == size


def test_a_new_engine_is_what_contributing_says():
    from classifier.engines import StoredBase, TensorFlowEngine, run_padded
    from featurestore import open_store

    store = open_store(str(ROOT / "tests/data/golden/embeddings"))
    base = StoredBase(store.storage, store.spec, False)
    settings = (base.load(), store.spec.base, store.spec.pixels.image_size, 4)
    engine = run_example("engine")["EagerEngine"](*settings)
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
    expected = run_padded(TensorFlowEngine(*settings), images)
    assert engine.feature_shape == store.spec.feature_shape
    np.testing.assert_allclose(run_padded(engine, images), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_a_new_head_is_what_contributing_says(classes):
    neighbors = optional("sklearn.neighbors")
    rng = np.random.default_rng(classes)
    labels = np.arange(60) % classes
    features = rng.normal(size=(60, 2, 3)) + labels[:, None, None]
    kernel, bias = run_example("head")["fit_centroids"](features, labels, classes)
    flat = features.reshape(60, -1)
    logits = flat @ kernel + bias
    got = logits.argmax(axis=1) if classes > 2 else (logits[:, 0] > 0).astype(int)
    expected = neighbors.NearestCentroid().fit(flat, labels).predict(flat)
    np.testing.assert_array_equal(got, expected)


DOCUMENTS = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "examples/README.md")
DOCUMENTS += tuple(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_a_page_names_exist(document):
    text = (ROOT / document).read_text()
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    named = re.findall(
        r"`((?:tests|classifier|featurestore|pipelines|benchmarks|examples)/[\w./]+)`", text
    )
    if document == "CONTRIBUTING.md":
        assert links and named
    for path in [(ROOT / document).parent / link for link in links] + [
        ROOT / name for name in named
    ]:
        assert path.exists(), path


@pytest.mark.parametrize("document", (*DOCUMENTS, "CHANGELOG.md"))
def test_prose_has_at_most_100_columns(document):
    text = (ROOT / document).read_text()
    # Tables, code and what benchmarks print have their own width.
    for what in (r"^```.*?^```", r"^<!-- begin .*?^<!-- end [^\n]*"):
        text = re.sub(what, "", text, flags=re.DOTALL | re.MULTILINE)
    assert not [line for line in text.splitlines() if len(line) > 100 and line[0] != "|"]


@pytest.mark.parametrize("name", LONGEST)
def test_files_that_run_first_exist(name):
    assert (ROOT / name).is_file()


def test_the_hooks_run_what_make_lint_runs():
    makefile = (ROOT / "Makefile").read_text()
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE).group(1)
    lint = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe.splitlines()]
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert {repo["repo"] for repo in config["repos"]} == {"local"}
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert [hook["entry"] for hook in hooks] == lint
    assert {hook["language"] for hook in hooks} == {"system"}


def test_the_licence_is_the_one_that_setup_names():
    text = (ROOT / "LICENSE").read_text()
    assert "The Hoarfrost authors" in text and "Apache License\n" in text
    assert 'license="Apache-2.0"' in (ROOT / "setup.py").read_text()


def test_type_checkers_are_invited_in():
    setup = (ROOT / "setup.py").read_text()
    for package in PACKAGES:
        assert (ROOT / package / "py.typed").exists()
        assert f'"{package}": ["py.typed"]' in setup


def test_the_tests_skip_by_one_helper():
    for path in (ROOT / "tests").rglob("test_*.py"):
        if path.name != "test_project.py":
            assert "importorskip" not in path.read_text(), path


@pytest.mark.parametrize(
    "ci, outcome",
    [("", "skipped"), ("0", "skipped"), ("true", "ModuleNotFoundError"), ("1", "Mod")],
)
def test_a_missing_package_skips_here_and_fails_in_ci(monkeypatch, ci, outcome):
    monkeypatch.setenv("CI", ci)
    error = pytest.skip.Exception if outcome == "skipped" else ModuleNotFoundError
    with pytest.raises(error, match="no_such_package"):
        optional("no_such_package")


def test_optional_packages_that_are_there_are_imported(monkeypatch):
    for ci in ("", "true"):
        monkeypatch.setenv("CI", ci)
        assert optional("json") is json


def test_the_tests_leave_the_environment_as_they_found_it():
    script = (
        "import os, pytest\n"
        "before = dict(os.environ)\n"
        "golden = 'tests/featurestore/test_golden.py'\n"
        "arguments = ['-q', '-p', 'no:cacheprovider', golden, '-k', 'missing']\n"
        "code = pytest.main(arguments)\n"
        "assert code == 0, code\n"
        "changed = set(before.items()) ^ set(os.environ.items())\n"
        "assert not changed, changed\n"
    )
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "HOARFROST_", "TF_", "PYTEST_"))
    }
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
