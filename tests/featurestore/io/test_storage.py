"""Atomic files on a local disk, in memory and on the S3 protocol."""

import os
import threading

import pyarrow as pa
import pytest

from featurestore.errors import UsageError
from featurestore.io.retry import retrying
from featurestore.io.storage import Storage, parquet_bytes, public_url


@pytest.fixture(params=["local", "memory", "s3"])
def storage(request, tmp_path):
    if request.param == "local":
        return Storage(str(tmp_path / "store"))
    if request.param == "memory":
        return Storage(f"memory://{tmp_path.name}")
    url, options = request.getfixturevalue("bucket")
    return Storage(f"{url}/store", options)


def test_write_read_list_remove(storage):
    storage.write("a/one", b"1")
    storage.write("a/one", "2")
    storage.write("a/b/two", b"22")
    assert storage.read("a/one") == b"2"
    assert [(file.name, file.size) for file in storage.list("a")] == [("b/two", 2), ("one", 1)]
    assert storage.read_many(["a/one", "a/b/two"]) == {"a/one": b"2", "a/b/two": b"22"}
    assert storage.read_many(["a/one"]) == {"a/one": b"2"}
    assert storage.read_many([]) == {}
    assert storage.list("nowhere") == []
    storage.remove("a")
    storage.remove("a")
    assert not storage.exists("a/one")
    with pytest.raises(FileNotFoundError):
        storage.read("a/one")


def test_of_many_creators_one_wins_and_its_content_stays(storage):
    storage.write("other", b"")
    wins, barrier = [], threading.Barrier(8)

    def create(number: int) -> None:
        barrier.wait()
        if storage.create("marker", f"writer {number}"):
            wins.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert storage.read("marker") == f"writer {wins[0]}".encode()


@pytest.mark.parametrize("groups", [[[]], [["a"]], [["a", "b"], ["c"]]])
def test_a_small_parquet_file_has_one_row_group_per_table(storage, groups):
    tables = [pa.table({"key": pa.array(keys, pa.string())}) for keys in groups]
    storage.write("small.parquet", parquet_bytes(tables))
    with storage.open_parquet("small.parquet") as file:
        assert file.num_row_groups == len(groups)
        read = [file.read_row_group(group)["key"].to_pylist() for group in range(len(groups))]
    assert read == groups


def test_publish_moves_a_finished_file(storage, tmp_path):
    draft = tmp_path / "draft"
    draft.write_bytes(b"part")
    storage.publish(draft, "parts/x")
    assert storage.read("parts/x") == b"part"
    assert not draft.exists()


def test_workspace_is_removed_even_after_an_error(storage):
    with pytest.raises(KeyError), storage.workspace("tmp/attempt") as folder:
        (folder / "half").write_text("x")
        raise KeyError
    assert not folder.exists()
    assert storage.list("tmp") == []


def test_local_writes_leave_no_drafts(tmp_path):
    storage = Storage(str(tmp_path))
    storage.write("a", b"1")
    assert storage.create("b", b"2")
    assert not storage.create("b", b"3")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_retrying_repeats_transient_errors_only():
    calls = []

    def flaky():
        calls.append(1)
        if len(calls) < 3:
            raise ConnectionResetError("cut")
        return "done"

    assert retrying(flaky, first_wait=0.0) == "done"
    assert len(calls) == 3
    calls.clear()

    def missing():
        calls.append(1)
        raise FileNotFoundError("gone")

    with pytest.raises(FileNotFoundError):
        retrying(missing, first_wait=0.0)
    assert len(calls) == 1


@pytest.mark.parametrize("name", ["loop", 300 * "n"])
def test_a_path_that_can_never_be_opened_is_tried_once(tmp_path, name):
    (tmp_path / "loop").symlink_to("loop")
    calls = []

    def opened():
        calls.append(1)
        return open(tmp_path / name)

    with pytest.raises(OSError, match="symbolic links|name too long"):
        retrying(opened, first_wait=0.0)
    assert len(calls) == 1


def test_retrying_gives_up_with_the_last_error():
    with pytest.raises(TimeoutError, match="slow"):
        retrying(lambda: (_ for _ in ()).throw(TimeoutError("slow")), attempts=2, first_wait=0.0)


def test_unknown_protocol_is_a_users_mistake():
    with pytest.raises(UsageError, match="cannot open 'nope://x'"):
        _ = Storage("nope://x").fs


@pytest.mark.parametrize(
    "url, shown",
    [
        ("s3://key:secret@bucket/a", "s3://bucket/a"),
        ("https://h/a?sig=1#f", "https://h/a"),
        ("/local/a?b#c", "/local/a?b#c"),
        ("file:///a?b", "file:///a?b"),
    ],
)
def test_public_url_drops_credentials(url, shown):
    assert public_url(url) == shown


def test_options_never_show_up():
    assert "hidden" not in repr(Storage("memory://x", {"secret": "hidden"}))


@pytest.mark.parametrize("many", [3, 1000], ids=["by-first-characters", "at-once"])
def test_a_walk_yields_what_a_list_returns(storage, monkeypatch, many):
    monkeypatch.setattr("featurestore.io.lookup.MANY", many)
    names = [f"{number:02x}.json" for number in range(0, 256, 3)]
    names += ["x.json", "Z", "~a", ".hidden", "[b]", "deep/er/0.json", "0/0"]
    for name in names:
        storage.write(f"markers/{name}", name)
    storage.write("markers-of-others/0", b"")
    walked = list(storage.walk("markers"))
    assert sorted(walked, key=lambda file: file.name) == storage.list("markers")
    assert sorted(file.name for file in walked) == sorted(names)
    assert list(storage.walk("nowhere")) == []
