"""Loading Keras: without what it does not need, and only where the process is ours."""

import importlib.util
import sys
from importlib.machinery import ModuleSpec

import pytest

from classifier import runtime


@pytest.fixture
def extra(tmp_path, monkeypatch) -> str:
    """A package that Keras would import if it were there."""
    (tmp_path / "an_extra_package.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(runtime, "EXTRAS", ("an_extra_package",))
    return "an_extra_package"


@pytest.mark.parametrize(
    "name", ["pipelines.extract", "apache_beam.runners.worker.sdk_worker_main"]
)
def test_a_process_of_ours_hides_the_extras_for_the_import_only(extra, monkeypatch, name):
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", ModuleSpec(name, None))
    with runtime._without_extras():
        with pytest.raises(ModuleNotFoundError, match="No module named 'an_extra_package'"):
            importlib.util.find_spec(extra)
        assert importlib.util.find_spec("json")
    assert importlib.util.find_spec(extra)


@pytest.mark.parametrize("spec", [None, ModuleSpec("pytest.__main__", None)])
def test_a_program_of_the_users_has_keras_whole(extra, monkeypatch, spec):
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec)
    with runtime._without_extras():
        assert importlib.util.find_spec(extra)


def test_a_switch_lets_keras_have_all_it_finds(extra, monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", ModuleSpec("pipelines.extract", None))
    monkeypatch.setenv(runtime.WHOLE_KERAS, "1")
    with runtime._without_extras():
        assert importlib.util.find_spec(extra)
