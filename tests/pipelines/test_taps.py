"""Several taps in one pass: the rows of each are those of an extraction of this layer alone."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.engines import small_base
from support.extraction import distance, run
from support.images import write_images
from support.optional import optional

from classifier.engines import StoredBase, run_padded, serving_engine
from classifier.engines.probes import synthetic_images
from classifier.exporting.whole import whole_model
from classifier.runs.run import load_run
from classifier.train import run as train
from featurestore import open_store
from featurestore.__main__ import run as featurestore_command
from featurestore.checking.verify import verify_storage
from featurestore.compaction.compact import compact
from featurestore.errors import SpecMismatch, UsageError
from featurestore.reuse import StoredFeatures
from featurestore.taps import columns_of, divided
from pipelines import extract as extract_command
from pipelines.deriver import derive

optional("keras")
# Inside a nested model, its output, the last layer pooled and as it is.
TAPS = ("inner", "inner/inside:max", "last:avg", "last")
META = ("key", "content_hash", "view", "labels", "split")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("taps")
    small_base(folder)
    for split in ("train", "test"):
        write_images(folder / "photos" / split, 20, seed=len(split))
    (folder / "photos" / "train" / "cat" / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    return folder


def extract(folder: Path, store: Path, *layers: str, engine: str = "tensorflow", more=()):
    flags = ["--model", folder / "small.keras", "--preprocess", "unit", "--chunk_size", 16]
    flags += ["--engine", engine, "--precision", "float32", *more]
    for layer in layers:
        flags += ["--layer", layer]
    return run("--input", folder / "photos", "--output", store, *flags).store


@pytest.fixture(scope="module")
def several(folder):
    return extract(folder, folder / "several", *TAPS)


@pytest.fixture(scope="module")
def singles(folder):
    return {tap: extract(folder, folder / tap.replace("/", "-"), tap) for tap in TAPS}


def rows_of(store, **chosen) -> dict:
    loaded = store.load([*META, "features"], **chosen)
    names = zip(*(map(str, loaded[name]) for name in META), strict=True)
    return dict(zip(names, loaded["features"], strict=True))


@pytest.mark.parametrize("tap", TAPS)
def test_the_rows_of_a_tap_are_those_of_an_extraction_of_its_own(several, singles, tap):
    one, alone = several.tap(tap), singles[tap]
    assert one.spec.identity == alone.spec.identity
    assert one.spec.identity_hash == alone.spec.identity_hash
    ours, theirs = rows_of(one), rows_of(alone)
    assert ours.keys() == theirs.keys() and len(ours) == 40
    for name, features in theirs.items():
        assert ours[name].dtype == features.dtype and ours[name].shape == features.shape
        assert distance(ours[name], features) < 1e-5
    again = rows_of(several, tap=tap)
    assert all((again[name] == features).all() for name, features in ours.items())


def test_openvino_computes_the_same_taps(folder, tmp_path, several):
    optional("openvino")
    other = extract(folder, tmp_path / "openvino", *TAPS, engine="openvino")
    for tap in TAPS:
        ours, theirs = rows_of(other, tap=tap), rows_of(several, tap=tap)
        assert all(distance(ours[name], features) < 2e-3 for name, features in theirs.items())


def test_one_layer_writes_format_1_and_several_write_format_2(several, singles):
    record = json.loads(several.storage.read("store.json"))
    # Releases that know no taps read format 1 only, and refuse any other number.
    assert record["format_version"] == 2
    shapes = [tap["shape"] for tap in record["base"]["taps"]]
    assert shapes == [[12, 12, 8], [8], [16], [10, 10, 16]]
    for store in singles.values():
        record = json.loads(store.storage.read("store.json"))
        assert record["format_version"] == 1
        assert "taps" not in record["base"] and "tap" not in record


def test_a_tap_is_a_column_and_only_its_column_is_read(several, monkeypatch):
    marker = next(iter(several.markers().values()))
    with several.storage.open_parquet(f"parts/{marker.part}") as part:
        names = part.schema_arrow.names
    assert names[10:] == [f"features:{tap}" for tap in list(TAPS)]
    read = []
    real = pq.ParquetFile.read_row_group

    def recorded(self, group, columns=None, **options):
        read.extend(columns or ["all"])
        return real(self, group, columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", recorded)
    # The reader of embeddings has its own way to a column's bytes; see its tests.
    monkeypatch.setattr("featurestore.reading.parts.split_lists", lambda *place: None)
    list(several.scan(["features"], tap="last:avg"))
    assert set(read) == {"features:last:avg"}


def test_several_taps_are_read_side_by_side(several):
    joined = several.load(tap="last:avg+inner")["features"]
    parts = [several.load(tap=tap)["features"] for tap in ("last:avg", "inner")]
    flat = [part.reshape(len(part), -1).astype(np.float32) for part in parts]
    assert joined.dtype == np.float32 and (joined == np.concatenate(flat, axis=1)).all()
    cached = several.tap("last:avg+inner/inside:max")
    cached = cached.with_cache()
    assert (cached.load()["features"] == cached.load()["features"]).all()
    assert cached.cache.made_bytes


def test_what_is_refused_in_one_line(folder, several, singles, tmp_path):
    with pytest.raises(UsageError, match="4 taps.*--tap NAME.*inner, inner/inside:max, last"):
        list(several.scan())
    with pytest.raises(UsageError, match="--tap: unknown value 'lost'; did you mean last"):
        several.tap("lost")
    with pytest.raises(UsageError, match="--tap last\\+last: names a tap twice"):
        several.tap("last+last")
    with pytest.raises(UsageError, match="--tap: unknown value 'inner'; choose from last:avg"):
        singles["last:avg"].tap("inner")
    assert singles["last"].tap("last:none").spec == singles["last"].spec
    with pytest.raises(UsageError, match="--layer 'last': each of several layers.*once"):
        extract(folder, tmp_path / "twice", "last", "last:none")
    with pytest.raises(UsageError, match="has no layer 'lost'; did you mean last"):
        extract(folder, tmp_path / "lost", "last", "lost:avg")
    with pytest.raises(UsageError, match="--weights none: .* drawn for one cut, got 2"):
        extract(folder, tmp_path / "random", "last", "inner", more=["--weights", "none"])
    for layers in (("last", "first"), ("first",)):
        with pytest.raises(SpecMismatch, match="inner/inside:max, last.*another --output"):
            extract(folder, folder / "several", *layers)
    with pytest.raises(SpecMismatch, match="have last, and this run would write first, last"):
        extract(folder, folder / "last", "last", "first")


def test_maintenance_keeps_every_tap(folder, several, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(folder / "several", copy)
    before = {tap: rows_of(several, tap=tap) for tap in TAPS}
    assert compact(open_store(copy)).merged > 1
    assert not list(verify_storage(open_store(copy).storage))
    for tap in TAPS:
        after = rows_of(open_store(copy, tap=tap))
        assert all((after[name] == features).all() for name, features in before[tap].items())
    assert featurestore_command(["info", str(copy)]) == 0
    assert "4 taps" in (shown := capsys.readouterr().out) and "last:avg 16 float32" in shown
    for tap, names in (("", list(TAPS)), ("last", ["last"])):
        output = tmp_path / f"snapshot{tap}"
        flags = ["--tap", tap] if tap else []
        assert featurestore_command(["snapshot", str(copy), "--output", str(output), *flags]) == 0
        table = pq.read_table(output / "part-000000.parquet")
        assert table.column_names[10:] == [f"features:{name}" for name in names]
        assert len(table) == 40
    flags = ["--output", str(tmp_path / "npy"), "--tap", "last:avg"]
    assert featurestore_command(["export", str(copy), *flags]) == 0
    exported = np.load(tmp_path / "npy" / "img_emb" / "img_emb_0.npy")
    assert (exported == open_store(copy, tap="last:avg").load()["features"]).all()
    (copy / "model" / f"{open_store(copy, tap='inner').spec.base.weights_hash}.keras").unlink()
    assert [found.kind for found in verify_storage(open_store(copy).storage)] == ["missing_model"]


def test_views_moved_images_and_a_resume(folder, tmp_path, monkeypatch):
    """A moved image is found by its content, with all its taps and views; nothing is computed."""
    photos = tmp_path / "photos"
    shutil.copytree(folder / "photos", photos)
    (tmp_path / "small.keras").write_bytes((folder / "small.keras").read_bytes())
    more = ["--views", 2, "--augment", "flip"]
    store = extract(tmp_path, tmp_path / "store", *TAPS, more=more)
    before = {tap: rows_of(store, tap=tap) for tap in TAPS}
    assert len(before["last"]) == 40 + 20
    (photos / "train" / "cat" / "00000.jpeg").rename(photos / "train" / "cat" / "moved.jpeg")
    found = []
    real = StoredFeatures.find
    monkeypatch.setattr(
        StoredFeatures, "find", lambda self, names: found.append(real(self, names)) or found[-1]
    )
    again = extract(tmp_path, tmp_path / "store", *TAPS, more=more)
    assert sum(map(len, found)) == 2
    for tap in TAPS:
        after = rows_of(again, tap=tap)
        contents = {(name[1], name[2]): features for name, features in before[tap].items()}
        assert len(after) == 60 + 2
        assert all((contents[name[1], name[2]] == f).all() for name, f in after.items())


@pytest.mark.parametrize("tap", ["inner", "last:avg+inner"])
def test_a_run_of_taps_predicts_and_exports_what_its_head_learned_from(several, tmp_path, tap):
    folder = str(tmp_path / "run")
    train(["--store", several.url, "--output", folder, "--tap", tap, "--epochs", "2"])
    trained = load_run(folder)
    assert trained.spec.base.tap == tap
    base, images = StoredBase(trained.storage, trained.spec), synthetic_images(4, (32, 32))
    features = run_padded(serving_engine(base, 4), images).copy()
    for part, column in zip(
        divided(trained.spec.base.taps, features), columns_of(trained.spec), strict=True
    ):
        # The head learned from rounded features.
        part[...] = part.astype(column.dtype)
    learned = trained.logits_of("linear")(features)
    whole = whole_model(base.load(), trained.load_head("linear"), trained.spec, False)
    shipped = whole.predict(images, verbose=0)[:, 1]
    np.testing.assert_allclose(shipped, 1 / (1 + np.exp(-learned[:, 0])), atol=1e-5)


def test_a_later_layer_is_derived_from_the_maps_of_a_tap(folder, tmp_path, singles):
    source = extract(folder, tmp_path / "source", "inner", "inner/inside:max")
    flags = ["--model", folder / "small.keras", "--preprocess", "unit", "--layer", "last:avg"]
    arguments = ["--input_store", source.url, "--output", tmp_path / "derived", *flags]
    options, _ = extract_command.parse_options(list(map(str, arguments)))
    ours = rows_of(derive(options, lambda line: None).store)
    theirs = rows_of(singles["last:avg"])
    assert ours.keys() == theirs.keys()
    assert all(distance(ours[name], features) < 2e-3 for name, features in theirs.items())
    with pytest.raises(UsageError, match="maps of one layer, and the taps of .* those of 2"):
        arguments[1] = str(folder / "several")
        derive(extract_command.parse_options(list(map(str, arguments)))[0], lambda line: None)
