"""Output never decides what a command did; what is wrong is named in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.commands import ROOT, assert_one_line_error
from support.images import encode, write_images
from support.kills import FLAGS
from support.stores import add_chunk, make_rows, make_trainable

from featurestore.errors import UsageError, did_you_mean
from featurestore.io.retry import naming
from featurestore.io.storage import Storage
from featurestore.store import open_store

SECONDS = 300
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def store(tmp_path) -> Path:
    """A small store of two classes, one of which is called what ASCII has no letters for."""
    make_trainable(tmp_path / "store", ("chât", "dog"))
    return tmp_path / "store"


def shell(line: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Runs a line of a shell, in which PYTHON stands for the interpreter."""
    return subprocess.run(
        ["bash", "-c", line.replace("PYTHON", sys.executable)],
        cwd=cwd,
        capture_output=True,
        env={**ENVIRONMENT, **environment},
        timeout=SECONDS,
    )


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["ascii", "latin-1", "C"],
)
def test_a_label_without_letters_is_shown_escaped(tmp_path, store, environment):
    add_chunk(
        open_store(str(store)),
        make_rows(4, start=100, labels=["猫"]),
        np.ones((4, 8), np.float32),
        [{"key": "bad ☃.jpg", "uri": "file:///bad", "size": 1, "etag": "", "content_hash": "",
          "kind": "not_an_image", "message": "☃"}],
    )  # fmt: skip
    for line in ("info store", "quarantine store", "quarantine store --json", "verify store"):
        done = shell(f"PYTHON -m featurestore {line}", tmp_path, **environment)
        assert (done.returncode, done.stderr) in ((0, b""), (1, b"")), (line, done)
        assert b"Traceback" not in done.stdout
    shown = shell("PYTHON -m featurestore quarantine store", tmp_path, **environment).stdout
    assert rb"bad \u2603.jpg" in shown


def test_an_error_about_a_name_without_letters_is_one_line(tmp_path):
    done = shell("PYTHON -m featurestore info 'où ☃'", tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: no feature store") and rb"o\xf9 \u2603" in done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    "line, code",
    [
        ("PYTHON -m featurestore info store >&-", 0),
        ("PYTHON -m featurestore info store >/dev/full", 0),
        ("PYTHON -m featurestore info store | head -c 1 >&2; exit ${PIPESTATUS[0]}", 0),
        ("PYTHON -m featurestore info store >&- 2>&- <&-", 0),
        ("PYTHON -m featurestore --help >/dev/full", 0),
        ("PYTHON -m featurestore info nowhere >&- 2>&-", 2),
        ("PYTHON -m featurestore info nowhere 2>/dev/full", 2),
    ],
)  # fmt: skip
def test_a_stream_that_fails_changes_no_exit_code(tmp_path, store, line, code):
    done = shell(line, tmp_path)
    assert done.returncode == code, done
    assert done.stderr.count(b"\n") <= 1 and b"Traceback" not in done.stderr
    assert b"BrokenPipe" not in done.stderr and b"ignored" not in done.stderr


@pytest.mark.parametrize("where", [">&-", ">/dev/full", "| head -c 1 >/dev/null"])
def test_results_are_written_though_nothing_can_be_shown(tmp_path, store, where):
    train = "PYTHON -m classifier.train --store store --output run --head linear --epochs 1"
    done = shell(f"{train} {where}; exit ${{PIPESTATUS[0]}}", tmp_path)
    assert done.returncode == 0 and (tmp_path / "run/run.json").exists(), done.stderr
    evaluate = "PYTHON -m classifier.evaluate --run run --store store --split all"
    done = shell(f"{evaluate} {where}; exit ${{PIPESTATUS[0]}}", tmp_path)
    assert done.returncode == 0 and list((tmp_path / "run/evaluation").glob("all-*.json"))
    assert done.stderr.count(b"\n") <= 1


def test_what_is_printed_never_goes_into_a_file_of_ours(tmp_path):
    """Without standard output, the first file that is opened would get its number."""
    (tmp_path / "prints.py").write_text(
        "import os, sys\nimport featurestore\n"
        "from featurestore.cli.streams import open_closed, say\n"
        "open_closed()\n"
        "with open('ours', 'wb') as ours:\n"
        "    os.write(1, b'chatter')\n"
        "    say('a line')\n"
    )
    assert shell("PYTHON prints.py >&-", tmp_path).returncode == 0
    assert (tmp_path / "ours").read_bytes() == b""


def test_a_name_that_is_no_utf8_survives_a_written_file(tmp_path):
    storage, name = Storage(str(tmp_path)), os.fsdecode(b"bad\xff.jpg")
    storage.write("record.json", json.dumps({"key": name}, ensure_ascii=False))
    assert json.loads(storage.read("record.json"))["key"] == name
    assert storage.create("page.html", f"<p>{name}")
    assert storage.read("page.html") == b"<p>bad\\udcff.jpg"


# --- errors that name what is wrong


def test_a_full_disk_names_the_file(tmp_path):
    with pytest.raises(OSError, match=r"No space.*: 'runs/head\.keras'"), naming("runs/head.keras"):
        raise OSError(28, "No space left on device")
    with pytest.raises(OSError, match="^of a client$"), naming("x"):
        raise OSError("of a client")


def test_training_on_a_full_disk_says_where(tmp_path, store):
    """A limit on the size of files stands for the full disk."""
    train = "PYTHON -m classifier.train --store store --output run --head mlp:512 --epochs 1"
    done = shell(f"ulimit -f 8; {train}", tmp_path)
    finished = type("F", (), {"code": done.returncode, "err": done.stderr.decode()})
    assert_one_line_error(finished, 2, "cannot write", ".keras'", "free space")


@pytest.mark.parametrize("name", ["my_modle", "./my_modle", "no-such-thing"])
def test_a_mistyped_model_folder_is_no_such_folder(tmp_path, command, name):
    (tmp_path / "my_model").mkdir()
    done = command("classifier.bases", name)
    assert_one_line_error(done, 2, "NAME", "file or folder", repr(name))
    assert "Xception" not in done.err and "--model" not in done.err
    assert ("my_model" in done.err.replace(name, "")) == ("modle" in name)


def test_near_names():
    assert did_you_mean("VGG61", ["VGG16", "VGG19"]) == "; did you mean VGG16 or VGG19"
    assert isinstance(UsageError("x"), Exception)


@pytest.fixture(scope="module")
def savedmodel(tmp_path_factory) -> Path:
    import tensorflow as tf

    class Net(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32)])
        def __call__(self, image):
            return tf.reduce_mean(image, (1, 2))

    net, folder = Net(), tmp_path_factory.mktemp("models") / "net"
    tf.saved_model.save(net, str(folder), signatures=net.__call__)
    return folder


def test_bases_names_no_flag_that_it_lacks(tmp_path, command, savedmodel):
    known = command("classifier.bases", "--help").out
    for size in ((), ("--image_size", "32")):
        assert command("classifier.bases", savedmodel, *size).code == 0
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.keras").write_text("none")
    for wrong in (("empty",), ("text.keras",), ("VGG61",), ("s3x://a/b",)):
        done = command("classifier.bases", *wrong)
        assert done.code == 2 and done.err.count("\n") == 1, done
        flags = {word.strip(":,;()") for word in done.err.split() if word.startswith("--")}
        assert all(flag in known for flag in flags), done.err


def test_predictions_are_not_lost_to_a_picture(tmp_path, command):
    images = write_images(tmp_path / "in", 2)
    odd = os.path.join(os.fsencode(tmp_path), b"odd\xff.jpg")
    with open(odd, "wb") as file:
        file.write(encode(np.zeros((48, 64, 3), np.uint8), "JPEG"))
    assert command("pipelines.extract", *FLAGS, "--input", "in", "--output", "s").code == 0
    train = ("classifier.train", "--store", "s", "--output", "r", "--epochs", "1", "--head")
    assert command(*train, "linear").code == 0
    for more in (["--json"], []):
        done = command(
            "classifier.predict", "--run", "r", os.fsdecode(odd), images[0], *more,
            "--plot", "in/cat", PYTHONIOENCODING="utf-8",
        )  # fmt: skip
        assert done.code == 2 and done.err.count("\n") == 1, done
        assert r"odd\udcff.jpg" in done.out and images[0].name in done.out
