"""The site of the documentation builds, and a link that leads nowhere fails it."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import ROOT
from support.optional import optional

optional("mkdocs")


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs/hooks.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def repository(tmp_path, hooks) -> Path:
    """The pages of this repository beside three packages of a function each."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for name in ("mkdocs.yml", "LICENSE", *hooks.PAGES):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("tests/data/README.md", "examples/own_base.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for package in hooks.PACKAGES:
        (tmp_path / package / "room").mkdir(parents=True)
        (tmp_path / package / "__init__.py").write_text('"""A package."""\n')
        (tmp_path / package / "room" / "__init__.py").write_text('"""A room."""\n')
        (tmp_path / package / "room" / "desk.py").write_text(
            '"""A desk."""\n\ndef write():\n    """Writes.\n\n    Example:\n      >>> 1 + 1\n'
            '      2\n    """\n'
        )
    return tmp_path


def build(folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def test_the_site_has_every_page_and_the_api(repository, hooks):
    done = build(repository)
    assert done.returncode == 0, done.stderr
    site = repository / "site"
    for page, _ in hooks.PAGES.values():
        name = page.removesuffix(".md")
        assert (site / ("index.html" if name == "index" else f"{name}/index.html")).exists()
    for package in hooks.PACKAGES:
        text = (site / f"api/{package}.room/index.html").read_text()
        assert "write" in text and "Examples:" in text
    assert not list(site.rglob("*.py"))


def test_links_that_lead_nowhere_fail(repository):
    broken = [
        ("docs/format.md", "gone.md"),
        ("docs/format.md", "operations.md#no-such-heading"),
        ("docs/format.md", "#not-even-here"),
        ("README.md", "docs/lost.md"),
        ("README.md", "docs/format.md#nor-there"),
        ("CONTRIBUTING.md", "examples/gone.py"),
    ]
    for page, link in broken:
        with (repository / page).open("a") as file:
            file.write(f"\n[gone]({link})\n")
    done = build(repository)
    assert done.returncode == 1, done.stderr
    for _, link in broken:
        assert link.removeprefix("docs/") in done.stderr, (link, done.stderr)


@pytest.mark.parametrize(
    "source, text, expected",
    [
        ("README.md", "[a](docs/format.md)", "[a](format.md)"),
        ("README.md", "[a](docs/format.md#views)", "[a](format.md#views)"),
        ("README.md", "[a](setup.py)", "a"),
        ("README.md", "[a](no.md) [b](#here)", "[a](no.md) [b](#here)"),
        ("docs/format.md", "[a](../README.md)", "[a](index.md)"),
        ("docs/format.md", "[a](operations.md)", "[a](operations.md)"),
        ("examples/README.md", "[a](../CONTRIBUTING.md)", "[a](contributing.md)"),
        ("README.md", "[a](https://example.org/docs/format.md)", None),
    ],
)
def test_links_lead_to_pages_of_the_site(hooks, source, text, expected):
    assert hooks.with_links_of_the_site(text, source) == (text if expected is None else expected)


@pytest.mark.slow
def test_the_whole_site_builds(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "scan" in (tmp_path / "site/api/featurestore/index.html").read_text()
