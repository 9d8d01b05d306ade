"""What lies where: an error of a file system is never an absence, at whatever depth it comes."""

import errno

import fsspec
import numpy as np
import pytest
from support.faulty_files import ERRORS, Faults, FaultyFileSystem
from support.stores import add_chunk, make_rows, make_store

from classifier.base.saved import fetched, local_files
from featurestore.errors import UsageError
from featurestore.export import ExportOptions, export
from featurestore.io.lookup import delete, download, entry, files_below, is_folder, lists_whole
from featurestore.io.storage import Storage
from pipelines.pack import run as pack

FS = FaultyFileSystem()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr("featurestore.io.retry.time.sleep", lambda seconds: None)


@pytest.fixture
def tree(tmp_path):
    for name in ("a/one", "a/b/two", "a/b/c/three"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "tree"


def failing(operation, where="", times=0, number=errno.EIO):
    return Faults(0, times, number, (operation,), where).at_work()


@pytest.mark.parametrize("where", ["tree", "tree/a", "a/b", "b/c"])
@pytest.mark.parametrize("number", ERRORS)
def test_a_folder_that_cannot_be_listed_is_an_error_at_any_depth(where, number, tree):
    storage = Storage(f"faulty://{tree}")
    assert [file.name for file in storage.list("")] == ["a/b/c/three", "a/b/two", "a/one"]
    with failing("ls", where, number=number), pytest.raises(OSError, match=where):
        storage.list("")


def test_a_blip_of_a_listing_is_asked_again(tree):
    with failing("ls", "a/b", times=2) as faults:
        assert len(files_below(FS, str(tree))) == 3
    assert faults.met["ls"] == 2


def test_only_what_is_absent_is_absent(tree):
    storage = Storage(f"faulty://{tree}")
    assert storage.list("nowhere") == [] and storage.list("a/one") == []
    assert not storage.exists("nowhere") and not storage.exists("a/one/below a file")
    assert storage.exists("a") and storage.exists("a/one") and storage.entry("a/one").size == 5
    assert storage.entry("nowhere") is None
    assert is_folder(FS, f"{tree}/a") and not is_folder(FS, f"{tree}/a/one")
    with failing("info", times=2):
        assert storage.exists("a/one")
    for number in ERRORS:
        with failing("info", number=number), pytest.raises(OSError):
            storage.exists("nowhere")


def test_a_network_that_is_down_is_no_absence():
    fs = fsspec.filesystem("http")
    with pytest.raises(OSError, match="Cannot connect") as caught:
        entry(fs, "http://127.0.0.1:9/x.jpg")
    assert not isinstance(caught.value, FileNotFoundError)
    with pytest.raises(UsageError, match="cannot fetch 'http://127.0.0.1:9/m.keras'"):
        with fetched("http://127.0.0.1:9/m.keras", "--model"):
            pass


def test_brackets_in_a_name_are_no_pattern_to_delete_by(tree):
    for name in ("run[12]/x", "run1/x", "run2/x", "keep"):
        Storage(f"faulty://{tree}").write(name, b"")
        Storage("memory://brackets").write(name, b"")
    for storage in (Storage(f"faulty://{tree}"), Storage("memory://brackets")):
        storage.remove("run[12]")
        storage.remove("kee?")
        names = {file.name for file in storage.list("")}
        assert {"run1/x", "run2/x", "keep"} <= names and "run[12]/x" not in names


def test_what_is_deleted_is_gone_and_what_cannot_be_is_an_error(tree):
    with failing("rm", "c/three"), pytest.raises(OSError, match="three"):
        delete(FS, str(tree))
    with failing("info"), pytest.raises(OSError):
        delete(FS, str(tree))
    delete(FS, str(tree))
    delete(FS, str(tree))
    assert not tree.exists()


def test_a_folder_is_fetched_whole_or_not_at_all(tree, tmp_path):
    with failing("ls", "b/c"), pytest.raises(OSError):
        download(FS, entry(FS, str(tree)), tmp_path / "part")
    with failing("read", times=3):
        download(FS, entry(FS, str(tree)), tmp_path / "whole")
    assert (tmp_path / "whole" / "a" / "b" / "c" / "three").read_text() == "a/b/c/three"
    assert len(local_files(tmp_path / "whole")) == 3
    with pytest.raises(FileNotFoundError):
        local_files(tmp_path / "nowhere")


def test_wrappers_of_file_systems_do_not_list_whole():
    assert not lists_whole(fsspec.filesystem("dir", path="/tmp", fs=FS))
    assert not lists_whole(FS) and not lists_whole(fsspec.filesystem("memory"))
    assert lists_whole(fsspec.filesystem("s3", anon=True))


@pytest.mark.parametrize("what", ["export", "pack"])
def test_an_output_that_cannot_be_listed_is_not_an_empty_one(what, tmp_path):
    store = make_store(tmp_path / "store")
    add_chunk(store, make_rows(3), np.ones((3, 8), np.float32))
    output = Storage(f"faulty://{tmp_path}/output")
    output.write("img_emb/old.npy", b"an older export")
    with failing("ls", "output"), pytest.raises((UsageError, OSError), match="output"):
        if what == "export":
            export(store, output, ExportOptions())
        else:
            (tmp_path / "in").mkdir()
            pack(["--input", str(tmp_path / "in"), "--output", output.url])
    assert [file.name for file in output.list("")] == ["img_emb/old.npy"]
