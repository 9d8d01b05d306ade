"""Prediction from raw images, end to end: the run alone rebuilds pixels and features."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.features import hash_of, make_store

from classifier.base.stored import load_base
from classifier.base.weights import weights_hash
from classifier.engines import EngineChoice, TensorFlowEngine, run_padded
from classifier.engines.probes import write_probes
from classifier.inputs import InputOptions
from classifier.inputs.named import named_inputs
from classifier.pixels.decoder import decode
from classifier.predict import run
from classifier.runs.run import load_run
from classifier.runtime import import_keras
from classifier.train import run as train
from featurestore import BaseSpec, PixelSpec, StoreSpec, UsageError, layout
from featurestore.errors import CorruptStore

SIZE = (16, 20)
COLOURS = {"blue": (200, 40, 40), "green": (40, 200, 40), "red": (40, 40, 200)}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """PNG files of three colours, a store of their features by a tiny real base, and a run."""
    folder = tmp_path_factory.mktemp("world")
    keras = import_keras()
    keras.utils.set_random_seed(0)
    inputs = keras.Input((*SIZE, 3))
    outputs = keras.layers.Conv2D(6, 3, activation="relu", name="top")(inputs)
    base = keras.Model(inputs, outputs)
    base_spec = BaseSpec("Tiny", "random", weights_hash(base), "top", "none", "tf")
    spec = StoreSpec(
        base_spec,
        PixelSpec(SIZE),
        (14, 18, 6),
        "float16",
        EngineChoice().numerics,
    )
    rng = np.random.default_rng(0)
    paths, labels = [], []
    for number in range(45):
        label = sorted(COLOURS)[number % 3]
        noise = rng.integers(-40, 40, (18, 18, 3))
        path = folder / f"{number:02d}-{label}.png"
        cv2.imwrite(str(path), np.clip(COLOURS[label] + noise, 0, 255).astype(np.uint8))
        paths.append(path)
        labels.append(label)
    engine = TensorFlowEngine(base, base_spec, SIZE, 8)
    pixels = np.stack([decode(path.read_bytes(), spec.pixels).pixels for path in paths])
    features = run_padded(engine, pixels)
    hashes = [hash_of(path.name) for path in paths]
    store = make_store(folder / "store", features, labels, spec=spec, content_hash=hashes)
    base.save(store.storage.path(layout.model_file(base_spec.weights_hash)))
    replace_probes(store, engine, pixels[:3])
    load_base(store.storage.path(layout.model_file(base_spec.weights_hash)), base_spec)
    train(["--store", store.url, "--output", str(folder / "run"), "--epochs", "15", "--json"])
    flags = ["--multi_label", "on", "--epochs", "15", "--json"]
    train(["--store", store.url, "--output", str(folder / "multi"), *flags])
    # The run must be enough.
    stored = store.load()
    shutil.rmtree(folder / "store")
    return folder, paths, stored


def replace_probes(store, engine, pixels):
    store.storage.remove(layout.PROBES)
    write_probes(store.storage, engine, pixels)


def predictions(capsys, *arguments):
    capsys.readouterr()
    code = run([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)["predictions"]


def test_prediction_equals_the_head_on_stored_features(world, capsys):
    folder, paths, stored = world
    code, found = predictions(capsys, "--run", folder / "run", *paths, "--top", "3")
    assert code == 0 and len(found) == len(paths)
    head = load_run(str(folder / "run")).load_head("linear")
    wanted = head.predict(stored["features"], verbose=0)
    classes = sorted(COLOURS)
    for row, probabilities in zip(found, wanted, strict=True):
        for entry in row["top"]:
            index = classes.index(entry["class"])
            assert entry["probability"] == pytest.approx(probabilities[index], abs=1e-5)
    right = [row["top"][0]["class"] in row["image"] for row in found]
    assert np.mean(right) > 0.9


def test_a_multi_label_head_answers_each_class_by_itself(world, capsys):
    folder, paths, stored = world
    _, found = predictions(capsys, "--run", folder / "multi", *paths[:9], "--top", "3")
    head = load_run(str(folder / "multi")).load_head("linear")
    sums = []
    for number, record in enumerate(found):
        row = stored["features"][list(stored["key"]).index(f"{number:05d}.png")]
        expected = head.predict(row[None], verbose=0)[0]
        by_class = {answer["class"]: answer["probability"] for answer in record["top"]}
        assert [by_class[name] for name in sorted(COLOURS)] == pytest.approx(expected, abs=1e-5)
        sums.append(sum(by_class.values()))
    assert max(abs(total - 1) for total in sums) > 1e-3
    with pytest.raises(UsageError, match="^--calibrated needs one label per row"):
        run(["--run", str(folder / "multi"), str(paths[0]), "--calibrated"])


def test_people_get_a_line_an_image(world, capsys):
    folder, paths, _ = world
    capsys.readouterr()
    assert run(["--run", str(folder / "run"), str(paths[0]), "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{paths[0]}: blue ") and lines[0].count("%") == 2
    assert lines[1] == "1 images classified by linear"


def test_patterns_urls_and_more_classes_than_there_are(world, capsys):
    folder, paths, _ = world
    arguments = ("--run", folder / "run", "--top", "9")
    _, found = predictions(capsys, *arguments, folder / "*-red.png", paths[2].as_uri())
    assert len(found) == 16 and all(len(row["top"]) == 3 for row in found)


def test_a_bad_image_is_one_line_and_the_others_go_on(world, tmp_path, capsys):
    folder, paths, _ = world
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    assert run(["--run", str(folder / "run"), str(bad), str(paths[0])]) == 0
    captured = capsys.readouterr()
    assert (
        captured.err.startswith(f"{bad}: bad image: not_an_image") and captured.err.count("\n") == 1
    )
    assert captured.out.splitlines()[-1] == "1 images classified by linear, 1 bad"
    code, found = predictions(capsys, "--run", folder / "run", bad)
    assert code == 1 and "not_an_image" in found[0]["error"]


def test_a_damaged_run_is_one_line(world, tmp_path):
    folder, paths, _ = world
    for name in ("leaderboard.json", "heads/linear.keras", "model", "model/probes.parquet"):
        copy = tmp_path / name.replace("/", "-")
        shutil.copytree(folder / "run", copy)
        lost = copy / name
        if lost.is_dir():
            shutil.rmtree(lost)
        else:
            lost.write_bytes(b"damaged")
        with pytest.MonkeyPatch.context() as patch:
            if name.endswith("parquet"):
                patch.setattr("classifier.pixels.decoder.decoder_label", lambda: "another decoder")
            with pytest.raises(CorruptStore) as caught:
                run(["--run", str(copy), str(paths[0])])
        assert "\n" not in str(caught.value)


def test_a_base_with_lambda_layers_needs_trust(tmp_path, capsys):
    keras = import_keras()
    inputs = keras.Input((8, 8, 3))
    outputs = keras.layers.Lambda(lambda x: x * 2.0, name="top")(inputs)
    base = keras.Model(inputs, outputs)
    base_spec = BaseSpec("Tiny", "random", weights_hash(base), "top", "avg", "none")
    spec = StoreSpec(base_spec, PixelSpec((8, 8)), (3,), "float32", EngineChoice().numerics)
    features = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    store = make_store(tmp_path / "store", features, ["a", "b"] * 6, spec=spec)
    base.save(store.storage.path(layout.model_file(base_spec.weights_hash)))
    output = str(tmp_path / "run")
    train(["--store", store.url, "--output", output, "--epochs", "1", "--json"])
    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((8, 8, 3), np.uint8))
    arguments = ["--run", output, str(tmp_path / "x.png")]
    with pytest.raises(UsageError, match="contains Lambda layers.*--trust_model"):
        run(arguments)
    assert run([*arguments, "--trust_model"]) == 0


def test_a_missing_file_is_a_users_mistake(world, tmp_path):
    folder, paths, _ = world
    (tmp_path / "empty").mkdir()
    for name, words in (
        ("gone.jpg", "IMAGE: no file"),
        ("*.nothing", "nothing matches"),
        ("empty", "IMAGE: no images in"),
    ):
        with pytest.raises(UsageError, match=words):
            run(["--run", str(folder / "run"), str(paths[0]), str(tmp_path / name)])
    with pytest.raises(UsageError, match="--top must be at least 1"):
        run(["--run", str(folder / "run"), str(paths[0]), "--top", "0"])
    with pytest.raises(UsageError, match="IMAGE: name images"):
        run(["--run", str(folder / "run")])


@pytest.fixture(scope="module")
def classes(world, tmp_path_factory):
    """The images in a folder per class, one of them under a wrong one, as a folder and a tar."""
    folder, paths, _ = world
    root = tmp_path_factory.mktemp("classes")
    for number, path in enumerate(paths):
        label = path.stem.partition("-")[2] if number else "red"
        (root / "in" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / "in" / label)
    with tarfile.open(root / "in.tar", "w") as archive:
        for path in sorted((root / "in").rglob("*.png")):
            archive.add(path, path.relative_to(root / "in"))
    (root / "list.csv").write_text(f"path,label\n{paths[0]},red\n{paths[1]},green\n")
    return root


def by_name(found):
    return {row["image"].rpartition("/")[2]: row["top"] for row in found}


def test_folders_shards_lists_and_standard_input_give_the_same_answers(
    world, classes, capsys, monkeypatch
):
    folder, paths, _ = world
    arguments = ("--run", folder / "run", "--top", "3")
    _, one_by_one = predictions(capsys, *arguments, *paths)
    wanted = by_name(one_by_one)
    lines = "\n".join([*map(str, paths[:3]), "", f"{classes}/in/*/03-*.png", "gone.png"])
    monkeypatch.setattr("sys.stdin", io.StringIO(lines + "\n"))
    for name, count in (("in", 45), ("in.tar", 45), ("list.csv", 2), ("-", 5), ("in/r*/*.png", 16)):
        given = "-" if name == "-" else classes / name
        code, found = predictions(capsys, *arguments, "--input", given)
        good = [row for row in found if "error" not in row]
        assert code == 0 and len(found) == count and len(good) == count - (name == "-")
        for image, top in by_name(good).items():
            assert [entry["class"] for entry in top] == [entry["class"] for entry in wanted[image]]
            assert [entry["probability"] for entry in top] == pytest.approx(
                [entry["probability"] for entry in wanted[image]], abs=1e-5
            )


def test_true_classes_give_an_accuracy(world, classes, capsys):
    folder, paths, _ = world
    capsys.readouterr()
    assert run(["--run", str(folder / "run"), str(classes / "in.tar"), "--jsonl"]) == 0
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    hits = sum(row["labels"] == [row["top"][0]["class"]] for row in rows)
    assert len(rows) == 45 and 40 <= hits <= 44
    lines = captured.err.splitlines()
    assert lines[-2] == "45 images classified by linear"
    assert lines[-1].startswith(f"accuracy {hits / 45:.4f} on 45 images whose class is known, 95%")
    run(["--run", str(folder / "run"), str(classes / "list.csv")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("(true: red)") and lines[-1].startswith("accuracy 0.5000 on 2 images")


def test_a_damaged_shard_is_one_line_behind_what_could_be_read(world, classes, tmp_path, capsys):
    folder, paths, _ = world
    cut = tmp_path / "cut.tar"
    cut.write_bytes((classes / "in.tar").read_bytes()[:20_000])
    code, found = predictions(capsys, "--run", folder / "run", cut, paths[0])
    assert code == 0 and len(found) > 5
    errors = [row for row in found if "error" in row]
    assert [row["image"] for row in errors] == [f"{found[-2]['image']}"]
    assert errors[0]["error"].startswith("unreadable: damaged shard: ")


def test_names_are_looked_at_before_anything_is_loaded(tmp_path):
    odd = tmp_path / "a::b[1].png"
    odd.write_bytes(b"")
    refs = list(named_inputs([str(odd), str(odd), str(tmp_path / "*.png")], InputOptions()))
    assert [ref.uri.removeprefix("file://") for ref in refs] == [str(odd)] * 2
    with pytest.raises(UsageError, match="no file"):
        named_inputs([str(odd), str(tmp_path / "gone")], InputOptions())


def test_addresses_that_cannot_be_reached_are_a_line_each(world, capsys, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    folder, paths, _ = world
    bad = ["http://h:x/1.jpg", "http://127.0.0.1:9/x.jpg", "nothing://x.jpg", "http://[::1/1.jpg"]
    code, found = predictions(capsys, "--run", folder / "run", *bad, paths[0])
    assert code == 0 and [bool(row.get("error")) for row in found] == [True] * 4 + [False]
    assert "connect" in found[1]["error"].lower() and "port" in found[0]["error"].lower()


def test_the_plot_is_a_picture(world, tmp_path, capsys):
    folder, paths, _ = world
    target = tmp_path / "out" / "plot.png"
    run(["--run", str(folder / "run"), *map(str, paths[:2]), "--plot", str(target)])
    assert cv2.imread(str(target)).shape[0] > 300


def test_foreign_numerics_are_told_with_the_measured_difference(world, capsys, monkeypatch):
    folder, paths, _ = world
    monkeypatch.setattr("classifier.pixels.decoder.decoder_label", lambda: "another decoder")
    run(["--run", str(folder / "run"), str(paths[0])])
    assert "probe images they differ by 0.0e+00" in capsys.readouterr().err


def test_a_folder_is_read_and_named_as_one(world, capsys):
    folder, paths, _ = world
    capsys.readouterr()
    assert run(["--run", str(folder / "run"), str(Path(paths[0]).parent)]) == 0
    assert f"all images of the folder '{Path(paths[0]).parent}'" in capsys.readouterr().err
