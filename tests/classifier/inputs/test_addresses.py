"""Addresses: one file has one, and what is written down is what was read."""

import os

import fsspec
import numpy as np
import pytest
from fsspec.implementations.ftp import FTPFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st
from support.images import png_bytes

from classifier.inputs import InputOptions, list_inputs, read_many
from featurestore.errors import UsageError
from featurestore.io.places import relation
from featurestore.io.retry import retrying
from featurestore.io.urls import address_of, connect, is_chain, public_url, query_of

PNG = png_bytes(np.zeros((2, 2, 3), np.uint8))
QUICK = settings(max_examples=100, deadline=None, derandomize=True)
ODD = ["a::b.png", "c#d.png", "q?.png", "p%20x.png", "[g]*.png", " lead.png", "new\nline.png"]
ODD += ["~t.png", "a..b.png", "zip::x.png", "http:x.png", "e\u0301.png", "\u00e9.png"]


def listed(*uris, **options):
    return list(list_inputs([str(uri) for uri in uris], InputOptions(storage_options=options)))


@pytest.fixture
def tree(tmp_path, monkeypatch):
    (tmp_path / "in" / "cat").mkdir(parents=True)
    (tmp_path / "in" / "cat" / "1.png").write_bytes(PNG)
    monkeypatch.chdir(tmp_path / "in")
    return tmp_path


@pytest.mark.parametrize(
    "spelling",
    [
        "../in",
        "./../in/",
        "..//in//",
        ".",
        "./",
        "cat/..",
        "{}/in/../in",
        "{}//in/./",
        "file://{}/x/../in",
    ],
)
def test_a_folder_has_one_address_whichever_way_it_is_written(tree, spelling):
    (ref,) = listed(spelling.format(tree))
    assert (ref.key, ref.uri) == ("cat/1.png", f"file://{tree}/in/cat/1.png")


@pytest.mark.parametrize("pattern", ["../in/*/*.png", "./cat/*", "{}/in/../in/**/*.png"])
def test_patterns_with_dots(tree, pattern):
    assert [ref.uri for ref in listed(pattern.format(tree))] == [f"file://{tree}/in/cat/1.png"]


def test_a_parent_behind_a_link_is_the_one_that_is_read(tmp_path):
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "real" / "in").mkdir()
    (tmp_path / "real" / "in" / "1.png").write_bytes(PNG)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deep")
    (ref,) = listed(f"{tmp_path}/link/../in")
    assert ref.uri == f"file://{tmp_path}/real/in/1.png" and read_many([ref]) == [PNG]


def test_spellings_of_one_file_in_a_list_are_one_image(tree):
    path = tree / "in" / "cat" / "1.png"
    rows = ["cat/1.png", "./cat/1.png", "../in/cat/1.png", str(path), path.as_uri()]
    rows += [f"{tree}//in/./cat/../cat/1.png", f"FILE://{path}"]
    (tree / "in" / "l.csv").write_text("\n".join(["path", *rows]))
    assert [ref.uri for ref in listed(tree / "in" / "l.csv")] == [path.as_uri()]


@pytest.mark.parametrize("name", ODD)
def test_odd_names_are_names(tmp_path, name):
    data = png_bytes(np.full((2, 2, 3), len(name), np.uint8))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(data)
    (tmp_path / "l.csv").write_text(f'path\n"in/{name}"\n')
    for given_as in (tmp_path / "in", tmp_path / "in" / name, tmp_path / "l.csv"):
        (ref,) = listed(given_as)
        assert ref.uri == f"file://{tmp_path}/in/{name}" and read_many([ref]) == [data]


def test_a_folder_with_colons_is_no_chain(tmp_path):
    (tmp_path / "a::b").mkdir()
    (tmp_path / "a::b" / "1.png").write_bytes(PNG)
    assert [ref.key for ref in listed(tmp_path / "a::b")] == ["1.png"]


def test_objects_with_colons_and_empty_parts_keep_their_names(bucket):
    url, options = bucket
    fs, path = connect(f"{url}/odd", options)
    for name in ("a::b.png", "x//c.png"):
        fs.pipe_file(f"{path}/{name}", PNG)
    refs = listed(f"{url}/odd", **options)
    assert len(refs) == 2 and read_many(refs, options) == [PNG, PNG]


BAD = [
    "http://host:abc/1.jpg",
    "http://127.0.0.1:99999/1.jpg",
    "http://[::1/1.jpg",
    "http://",
    "http://a..b/1.jpg",
    "http://\u00ad/1.jpg",
    "http://" + "x" * 80 + ".invalid:x/1.jpg",
    "nothing://a/b.jpg",
    "://a.jpg",
    "s3://",
    "github://a/b.jpg",
    "zip://a.jpg",
    "zip://a.jpg::gone.zip",
    "in/a\0b.jpg",
    "x" * 300 + ".jpg",
    "reference://a",
    "abfs://a/b.jpg",
    ".",
]


@pytest.mark.parametrize("written", BAD)
def test_whatever_an_address_raises_is_that_rows_problem(tmp_path, written, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    (tmp_path / "1.png").write_bytes(PNG)
    (tmp_path / "l.csv").write_text(f"url,label\n1.png,x\n{written},x\n", encoding="utf-8")
    good, bad = listed(tmp_path / "l.csv")
    assert good.problem == "" and bad.problem and bad.key and (bad.size, bad.etag) == (0, "")
    contents = read_many([good, bad])
    assert contents[0] == PNG and isinstance(contents[1], OSError)


def test_addresses_that_differ_by_their_query_are_two_images(tmp_path):
    rows = ["img?id=1", "img?id=2", "a.jpg?sig=secret", "a.jpg", "img?id=1#top"]
    text = "".join(f"http://127.0.0.1:9/{row}\n" for row in rows if row != "a.jpg")
    (tmp_path / "l.csv").write_text(f"url\n{text}")
    refs = listed(tmp_path / "l.csv")
    assert len({ref.key for ref in refs}) == len(refs) == 3
    assert all("given with a query" in ref.problem for ref in refs)
    assert "secret" not in repr(refs) and not any("?" in ref.uri for ref in refs)


class Faulty(fsspec.get_filesystem_class("memory")):
    """Answers `info` after some faults."""

    protocol = "silent"
    store: dict = {}
    faults = 0

    def info(self, path, **kwargs):
        if Faulty.faults:
            Faulty.faults -= 1
            raise OSError(5, "Input/output error")
        return super().info(path, **kwargs)


@pytest.mark.parametrize("faults, size", [(0, len(PNG)), (1, len(PNG)), (4, len(PNG)), (99, 0)])
def test_a_fault_of_info_is_retried_and_never_a_row_of_no_size(tmp_path, monkeypatch, faults, size):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    fsspec.register_implementation("silent", Faulty, clobber=True)
    Faulty.faults = 0
    fs, path = connect("silent://x/1.png")
    fs.pipe_file(path, PNG)
    (tmp_path / "l.csv").write_text("url\nsilent://x/1.png\n")
    Faulty.faults = faults
    (ref,) = listed(tmp_path / "l.csv")
    assert ref.size == size and bool(ref.problem) is (size == 0)
    Faulty.faults = 0
    assert isinstance(read_many([ref])[0], OSError if ref.problem else bytes)


def test_a_fault_of_stat_is_retried_and_a_lasting_one_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(PNG)
    stat, faults = os.stat, {"1.png": 2, "2.png": 99}

    def failing(path, *arguments, **options):
        name = os.path.basename(os.fspath(path)) if not isinstance(path, int) else ""
        if faults.get(name, 0) > 0:
            faults[name] -= 1
            raise OSError(116, "Stale file handle")
        return stat(path, *arguments, **options)

    monkeypatch.setattr("classifier.inputs.lister.os.stat", failing)
    one, two = listed(tmp_path)
    assert (one.size, one.problem) == (len(PNG), "")
    assert "Stale file handle" in two.problem


def test_a_web_server_that_is_down_is_not_a_missing_file(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    fs, path = connect("http://127.0.0.1:9/a.jpg")
    with pytest.raises(OSError, match="(?i)connect") as caught:
        retrying(lambda: fs.info(path))
    assert not isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize("url", ["ftp://me:secret@far/in/1.png", "ftp://far:2222/in/1.png"])
def test_the_machine_stays_in_an_address(monkeypatch, url):
    """Two machines' files of one path are two images."""
    monkeypatch.setattr(FTPFileSystem, "_connect", lambda self: None)
    monkeypatch.setattr(FTPFileSystem, "__del__", lambda self: None, raising=False)
    assert address_of(*connect(url)) == public_url(url)


PLACES = [
    ("{}/a", "{}/a", "equals"),
    ("{}/a/", "file://{}/b/../a", "equals"),
    ("{}/a/s", "{}/a", "lies inside"),
    ("{}/a2", "{}/a", ""),
    ("{}/link", "{}/a", "equals"),
    ("{}/link/x", "{}/a", "lies inside"),
    ("{}", "{}/a", "contains"),
    ("/", "{}/a", "contains"),
    ("memory://b/in/out", "memory://b/in", "lies inside"),
    ("memory://b/in/../in/out/", "memory://b/in", "lies inside"),
    ("memory://b/in2", "memory://b/in", ""),
    ("memory://b", "memory://b/in", "contains"),
    ("memory:///a", "/a", ""),
]


@pytest.mark.parametrize("folder, other, expected", PLACES)
def test_how_folders_lie_to_each_other(tmp_path, folder, other, expected):
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert relation(folder.format(tmp_path), other.format(tmp_path)) == expected


def test_buckets(bucket):
    url, options = bucket
    assert relation(f"{url}/in/out", f"{url}/in/", options) == "lies inside"
    assert relation(f"{url}/in2", f"{url}/in", options) == ""


@pytest.mark.parametrize(
    "inputs, output, words",
    [
        (["in"], "in", "equals"),
        (["in"], "in/cat/..", "equals"),
        (["in/"], "in/store", "lies inside"),
        (["in/**/*.png"], "in/store", "lies inside"),
        (["in/cat/1.png"], "in/cat", "equals"),
        (["in/l.csv"], "in", "equals"),
        (["in/cat"], "in", "contains"),
        (["other", "in"], "link", "equals"),
    ],
)
def test_an_output_among_the_inputs_is_refused(tree, monkeypatch, inputs, output, words):
    monkeypatch.chdir(tree)
    (tree / "other").mkdir()
    (tree / "link").symlink_to(tree / "in")
    (tree / "in" / "l.csv").write_text("path\ncat/1.png\n")
    with pytest.raises(UsageError, match=f"--output: .* {words} .*--input .*choose a folder"):
        list(list_inputs(inputs, InputOptions(output=output)))


@pytest.mark.parametrize(
    "given_as, output",
    [
        ("in/*/*.png", "in/store"),
        ("in/cat/1.png", "in/cat/store"),
        ("in/l.csv", "in/s"),
        ("in", "in2"),
    ],
)
def test_an_output_beside_the_images_is_welcome(tree, monkeypatch, given_as, output):
    monkeypatch.chdir(tree)
    (tree / "in" / "l.csv").write_text("path\ncat/1.png\n")
    assert len(list(list_inputs([given_as], InputOptions(output=output)))) == 1


NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1)
PATHS = st.lists(st.one_of(NAMES, st.sampled_from(["..", ".", "", "a::b", "x"])), max_size=6)


@QUICK
@given(PATHS)
def test_a_local_address_leads_back_to_itself(parts):
    path = "/" + "/".join(["no-such-folder", *parts])
    fs, found = connect(path)
    assert found == os.path.normpath(path).replace("//", "/")
    uri = address_of(fs, found)
    assert connect(uri)[1] == found and address_of(*connect(uri)) == uri


@QUICK
@given(st.sampled_from(["memory://b/", "http://h/", "https://u:secret@h/"]), PATHS, NAMES)
def test_an_address_is_public_and_leads_back_to_itself(root, parts, name):
    fs, path = connect(root + "/".join([*parts, name]))
    uri = address_of(fs, path)
    assert "secret" not in uri and not query_of(uri)
    assert address_of(*connect(uri)) == uri


@settings(QUICK, max_examples=50)
@given(st.text(max_size=40))
def test_any_text_is_an_address_or_a_users_mistake(text):
    assert isinstance(public_url(text), str) and is_chain(text) in (True, False)
    try:
        fs, path = connect(text)
        address_of(fs, path)
    except UsageError as error:
        assert "cannot open" in str(error) or "package" in str(error)
