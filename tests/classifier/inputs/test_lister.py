"""What lies where: no folder is left out because its listing failed."""

import os

import fsspec
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from classifier.inputs import Ignored, InputOptions, list_inputs
from classifier.inputs.found import Found
from classifier.inputs.lister import Lister
from featurestore.errors import UsageError

FILES = ("a/x/1.jpg", "a/y/2.jpg", "b/x/3.jpg", "b/4.jpg", "c[1]/5.jpg", "d/e/f/6.jpg")


@pytest.fixture(params=["local", "memory"])
def tree(request, tmp_path):
    """(lister, root) of the same files on two file systems."""
    fs = fsspec.filesystem(request.param)
    root = f"{tmp_path}/in" if request.param == "local" else f"/{tmp_path.name}/in"
    for name in FILES:
        fs.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
        fs.pipe_file(f"{root}/{name}", b"x")
    return Lister(fs), root


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*/*/*.jpg", ["a/x/1.jpg", "a/y/2.jpg", "b/x/3.jpg"]),
        ("a/?/*.jpg", ["a/x/1.jpg", "a/y/2.jpg"]),
        ("*", ["a", "b", "c[1]", "d"]),
        ("**/*.jpg", sorted(FILES)),
        ("[ab]/x/*", ["a/x/1.jpg", "b/x/3.jpg"]),
        ("c[[]1]/*", ["c[1]/5.jpg"]),
        ("d/**/6.jpg", ["d/e/f/6.jpg"]),
        ("*/nothing/*", []),
    ],
)
def test_patterns(tree, pattern, expected):
    lister, root = tree
    assert lister.glob(f"{root}/{pattern}") == [f"{root}/{name}" for name in expected]


def test_only_folders_that_may_hold_a_match_are_listed(tree, monkeypatch):
    lister, root = tree
    listed = []
    ls = lister.ls
    monkeypatch.setattr(lister, "ls", lambda path: [listed.append(path), ls(path)][1])
    lister.glob(f"{root}/*/x/*.jpg")
    below = {path.removeprefix(root).strip("/") for path in listed}
    assert below == {"", "a", "b", "c[1]", "d", "a/x", "b/x"}


def test_kinds(tree):
    lister, root = tree
    kinds = [lister.kind(f"{root}/{name}") for name in ("a", "b/4.jpg", "none", "b/4.jpg/x")]
    assert kinds == ["directory", "file", "", ""]


@pytest.mark.parametrize("name", ["in", "in/*/*/*.jpg", "in/**/*.jpg"])
def test_a_folder_whose_listing_fails_is_an_error(name, tmp_path, monkeypatch):
    fs = MemoryFileSystem()
    for file in FILES:
        fs.pipe_file(f"/{tmp_path.name}/in/{file}", b"x")
    ls = MemoryFileSystem.ls

    def failing(self, path, **options):
        if path.rstrip("/").endswith("/b/x"):
            raise PermissionError("not yours")
        return ls(self, path, **options)

    monkeypatch.setattr(MemoryFileSystem, "ls", failing)
    with pytest.raises(UsageError, match="not yours"):
        list(list_inputs([f"memory://{tmp_path.name}/{name}"], InputOptions()))


def test_patterns_follow_links_but_not_in_circles(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "1.jpg").write_bytes(b"x")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "real")
    (tmp_path / "in" / "circle").symlink_to(tmp_path / "in")
    lister = Lister(LocalFileSystem())
    assert lister.glob(f"{tmp_path}/in/*/1.jpg") == [f"{tmp_path}/in/link/1.jpg"]
    assert f"{tmp_path}/in/link/1.jpg" in lister.glob(f"{tmp_path}/in/**/1.jpg")


def test_a_wrapper_that_leaves_out_what_fails_is_walked(tmp_path, monkeypatch):
    """`DirFileSystem` seems to list whole trees, and asks fsspec's own ``find`` for them."""
    inner = MemoryFileSystem()
    for file in FILES:
        inner.pipe_file(f"/{tmp_path.name}/in/{file}", b"x")
    lister = Lister(DirFileSystem(f"/{tmp_path.name}", inner))
    assert [info["name"] for info in lister.find("in")] == [f"in/{name}" for name in sorted(FILES)]
    ls = MemoryFileSystem.ls

    def failing(self, path, **options):
        if path.rstrip("/").endswith("/b/x"):
            raise PermissionError("not yours")
        return ls(self, path, **options)

    monkeypatch.setattr(MemoryFileSystem, "ls", failing)
    for call in (lambda: lister.find("in"), lambda: lister.glob("in/**/*.jpg")):
        with pytest.raises(PermissionError, match="not yours"):
            call()


@pytest.mark.parametrize("error", [PermissionError(13, "no"), OSError(5, "broken")])
def test_a_kind_that_the_file_system_does_not_tell_is_an_error(monkeypatch, error):
    monkeypatch.setattr("time.sleep", lambda seconds: None)

    class Silent(MemoryFileSystem):
        def info(self, path, **options):
            raise error

    with pytest.raises(OSError, match="no|broken"):
        Lister(Silent()).kind("/anything")


@pytest.mark.parametrize("name", ["cat", "notes", "s.tar"])
@pytest.mark.parametrize("pattern", ["", "/*"])
def test_a_local_entry_that_may_be_a_folder_is_never_a_file_of_no_size(
    tmp_path, monkeypatch, name, pattern
):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    (tmp_path / "1.jpg").write_bytes(b"x")
    (tmp_path / name).mkdir()
    real = os.stat

    def failing(path, *arguments, **options):
        if isinstance(path, str) and os.path.basename(path) == name:
            raise OSError(5, "Input/output error", path)
        return real(path, *arguments, **options)

    monkeypatch.setattr("classifier.inputs.lister.os.stat", failing)
    with pytest.raises(UsageError, match=f"Input/output error.*{name}"):
        list(list_inputs([f"{tmp_path}{pattern}"], InputOptions()))


def test_links_that_lead_nowhere_are_counted_and_images_among_them_have_a_problem(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    (tmp_path / "itself").symlink_to(tmp_path / "itself")
    (tmp_path / "1.jpg").symlink_to(tmp_path / "nothing")
    (tmp_path / "2.jpg").symlink_to(tmp_path / "2.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    ignored = Ignored()
    refs = list(list_inputs([str(tmp_path)], InputOptions(), Found(ignored)))
    assert [ref.key for ref in refs] == ["1.jpg", "2.jpg"] and all(ref.problem for ref in refs)
    assert sorted(ignored.names) == ["gone", "itself", "pipe.jpg"]
