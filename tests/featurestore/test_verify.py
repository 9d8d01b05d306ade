"""Every damage to a store is found and named, with a fix that mends it; a clean store has none."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.commands import assert_one_line_error
from support.stores import add_chunk, make_rows, make_spec, make_store, memory_growth

from featurestore.checking.findings import KINDS, Checked, Finding
from featurestore.checking.verify import verify_storage
from featurestore.commit import Marker, read_markers, write_manifest
from featurestore.io.storage import Storage
from featurestore.layout import file_sha256

BAD = {"uri": "file:///b", "size": 3, "etag": "1", "kind": "empty", "message": "no bytes"}


def features_of(count: int, shape=(8,)) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)


def build(url, spec=None, chunks=3, manifest=True, **options):
    """A store of chunks with 20 rows each and one bad image in the second, as a finished run."""
    store = make_store(url, spec, **options)
    storage, shape = store.storage, store.spec.feature_shape
    for path in (f"model/{store.spec.base.weights_hash}.keras", "model/probes.parquet"):
        storage.write(path, b"stands for the base")
    for number in range(chunks):
        bad = [{**BAD, "key": "bad.png"}] if number == 1 else []
        add_chunk(store, make_rows(20, 20 * number), features_of(20, shape), bad)
    if manifest:
        write_manifest(storage, "run", list(store.markers().values()))
    storage.write("runs/run.json", json.dumps({"ledger": asdict(store.ledger())}))
    return store


@pytest.fixture
def store(tmp_path):
    return build(tmp_path / "s")


def kinds(store, **settings) -> list[str]:
    return sorted({finding.kind for finding in verify_storage(store.storage, **settings)})


def root(store) -> Path:
    return Path(store.storage.path(""))


def marker_paths(store) -> list[Path]:
    return sorted((root(store) / "markers").glob("*.json"))


def part_paths(store) -> list[Path]:
    return [root(store) / "parts" / marker.part for marker in store.markers().values()]


def drop_manifest(store) -> None:
    shutil.rmtree(root(store) / "manifest", ignore_errors=True)


def rewrite_part(store, index: int, table_of) -> None:
    """Replaces a part's rows and makes name, size and checksum of marker and manifest fit."""
    drop_manifest(store)
    path, marker_path = part_paths(store)[index], marker_paths(store)[index]
    pq.write_table(table_of(pq.read_table(path)), path)
    record = json.loads(marker_path.read_text())
    sha256 = file_sha256(path)
    name = f"{record['chunk_id']}-{sha256[:16]}.parquet"
    path.rename(path.with_name(name))
    record |= {
        "part": name,
        "part_sha256": sha256,
        "part_bytes": (path.parent / name).stat().st_size,
    }
    marker_path.write_text(json.dumps(record))


@pytest.mark.parametrize("shape, dtype", [((8,), "float32"), ((2, 2, 3), "float16")])
@pytest.mark.parametrize("chunks", [0, 1, 3])
@pytest.mark.parametrize("manifest", [True, False])
def test_a_clean_store_has_no_findings(tmp_path, shape, dtype, chunks, manifest):
    store = build(tmp_path / "s", make_spec(shape, dtype), chunks, manifest)
    checked = Checked()
    assert list(verify_storage(store.storage, checked=checked)) == []
    assert checked.commits == chunks and checked.rows == 20 * chunks
    assert list(verify_storage(store.storage, quick=True)) == []


def test_a_clean_store_elsewhere_has_no_findings(tmp_path):
    store = build(f"memory://{tmp_path.name}")
    checked = Checked()
    assert list(verify_storage(store.storage, checked=checked)) == [] and checked.rows == 60
    storage = store.storage
    path = "parts/" + next(iter(store.markers().values())).part
    data = bytearray(storage.read(path))
    data[40] ^= 1
    storage.write(path, bytes(data))
    (finding,) = [f for f in verify_storage(store.storage) if f.kind != "unchecked"]
    assert finding.kind == "checksum" and finding.fix.startswith("delete markers/")


def test_any_flipped_byte_is_found(store):
    path = part_paths(store)[1]
    sound = path.read_bytes()
    for position in np.linspace(0, len(sound) - 1, 25).astype(int):
        damaged = bytearray(sound)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        assert "checksum" in kinds(store), position
    path.write_bytes(sound)
    assert kinds(store) == []


def test_a_flipped_byte_in_a_quarantine_file_is_found(store):
    (path,) = (root(store) / "quarantine").iterdir()
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)
    assert kinds(store) == ["checksum"]


@pytest.mark.parametrize("quick", [False, True])
def test_a_shortened_part_is_found_at_once(store, quick):
    path = part_paths(store)[0]
    path.write_bytes(path.read_bytes()[:-1])
    assert "checksum" in kinds(store, quick=quick)


@pytest.mark.parametrize("quick", [False, True])
def test_missing_files_are_found(store, quick):
    part_paths(store)[2].unlink()
    assert "missing_part" in kinds(store, quick=quick)
    (path,) = (root(store) / "quarantine").iterdir()
    path.unlink()
    assert "missing_quarantine" in kinds(store, quick=quick)
    shutil.rmtree(root(store) / "model")
    assert "missing_model" in kinds(store, quick=quick)


def test_a_missing_marker_is_found_by_the_manifest(store):
    marker_paths(store)[0].unlink()
    assert kinds(store) == ["missing_marker"]


def test_without_a_manifest_a_missing_marker_leaves_an_orphan(store):
    drop_manifest(store)
    marker_paths(store)[0].unlink()
    findings = list(verify_storage(store.storage))
    assert [finding.kind for finding in findings] == ["orphan"]
    assert findings[0].severity == "warning"


def test_a_foreign_part_is_found(store, tmp_path):
    other = build(tmp_path / "other", make_spec(seed=1, views=2), chunks=1, manifest=False)
    drop_manifest(store)
    for ours, theirs in zip(marker_paths(store), marker_paths(other), strict=False):
        shutil.copy(theirs, ours)
        shutil.copy(part_paths(other)[0], root(store) / "parts")
        break
    assert "foreign_part" in kinds(store)


def test_a_part_of_another_store_under_our_name_is_found(store, tmp_path):
    other = build(tmp_path / "other", make_spec((9,)), chunks=1)
    shutil.copy(part_paths(other)[0], part_paths(store)[0])
    assert "checksum" in kinds(store)


def test_another_shape_under_our_identity_is_found(store):
    def rename(table):
        return table.rename_columns(["key2", *table.column_names[1:]])

    rewrite_part(store, 0, rename)
    assert "foreign_part" in kinds(store)


@pytest.mark.parametrize("manifest", [True, False])
def test_swapped_markers_are_found(store, manifest):
    if not manifest:
        drop_manifest(store)
    one, two, _ = marker_paths(store)
    first, second = one.read_text(), two.read_text()
    one.write_text(second)
    two.write_text(first)
    findings = list(verify_storage(store.storage))
    assert [finding.kind for finding in findings] == ["swapped_marker"] * 2
    assert {finding.path for finding in findings} == {f"markers/{p.name}" for p in (one, two)}


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", "null", '{"chunk_id": 1}', "\0\0"],
)
def test_damaged_markers_are_found(store, text):
    marker_paths(store)[0].write_text(text)
    assert "damaged_marker" in kinds(store)


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"ledger": {"images_in": 21, "rows": 20}}, "ledger"),
        ({"ledger": {"images_in": 19, "rows": 19}}, "row_count"),
        ({"ledger": {"images_in": "20", "rows": 20}}, "damaged_marker"),
        ({"part": ""}, "ledger"),
        ({"part": "../store.json"}, "wrong_file"),
        ({"part": 7}, "damaged_marker"),
        ({"part_sha256": "0" * 64}, "wrong_file"),
        ({"surprise": 1}, "damaged_marker"),
        ({"seconds": 123.0}, None),
    ],
)
def test_edited_markers_are_found(store, change, expected):
    path = marker_paths(store)[0]
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with_manifest = kinds(store)
    assert {"differing_marker", "damaged_marker"} & {*with_manifest}
    drop_manifest(store)
    assert (expected in kinds(store)) if expected else kinds(store) == []


def test_edited_specs_are_found(store):
    path = root(store) / "store.json"
    text = path.read_text()
    record = json.loads(text)
    for name, value in (
        ("dtype", "float16"),
        ("dtype", "float8"),
        ("numerics", {**record["numerics"], "precision": "int8"}),
        ("format_version", 2),
        ("feature_shape", []),
    ):
        path.write_text(json.dumps({**record, name: value}))
        assert kinds(store) == ["damaged_spec"], name
    path.write_text(text[:100])
    assert kinds(store) == ["damaged_spec"]
    part_paths(store)[0].unlink()
    assert kinds(store) == ["damaged_spec", "missing_part"]
    path.unlink()
    assert "missing_spec" in kinds(store)


@pytest.mark.parametrize("shape, dtype", [((8,), "float32"), ((2, 2, 3), "float16")])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_features_are_found(tmp_path, shape, dtype, value):
    store = build(tmp_path / "s", make_spec(shape, dtype), chunks=1, manifest=False)
    features = features_of(3, shape)
    features[1].flat[2] = value
    rows = make_rows(3, 900)
    if dtype == "float32":
        add_chunk(store, rows, features)
    else:

        def spoil(table):
            data = bytearray(table["features"][1].as_py())
            data[:2] = np.float16(value).tobytes()
            column = table["features"].to_pylist()
            column[1] = bytes(data)
            index = table.schema.get_field_index("features")
            field = table.schema.field(index)
            return table.set_column(index, field, pa.array(column, field.type))

        rewrite_part(store, 0, spoil)
    (finding,) = verify_storage(store.storage)
    assert finding.kind == "non_finite" and "1 rows" in finding.message
    assert ("00901.png" if dtype == "float32" else "00001.png") in finding.message


def test_duplicate_keys_are_found(store):
    add_chunk(store, make_rows(2, 19), features_of(2))
    findings = [
        finding for finding in verify_storage(store.storage) if finding.kind == "duplicate_key"
    ]
    assert [finding.message.split("'")[1] for finding in findings] == ["00019.png", "00020.png"]
    assert "file:///images/00019.png" in findings[0].message


def test_other_views_are_no_duplicates_and_are_counted(tmp_path):
    store = build(tmp_path / "s", make_spec(views=3, augment="flip"), chunks=0)
    rows = [row for view in range(3) for row in make_rows(5, view=view)]
    marker = add_chunk(store, rows, features_of(15))
    assert (marker.ledger.rows, marker.augmented) == (5, 10)
    assert "duplicate_key" not in kinds(store) and "row_count" not in kinds(store)
    record = {**json.loads(marker.to_json()), "augmented": 9}
    marker_paths(store)[0].write_text(json.dumps(record))
    findings = [finding for finding in verify_storage(store.storage) if finding.kind == "row_count"]
    message = "it holds 10 rows of augmented views, its marker counts 9"
    assert [finding.message for finding in findings] == [message]


def test_many_duplicates_are_listed_up_to_a_hundred(store):
    add_chunk(store, make_rows(20, 0), features_of(20))
    for start in range(1000, 1300, 150):
        for _ in range(2):
            add_chunk(store, make_rows(150, start), features_of(150))
    findings = [
        finding for finding in verify_storage(store.storage) if finding.kind == "duplicate_key"
    ]
    assert len(findings) == 101 and findings[-1].message == "and 220 more keys"


def test_orphans_are_told_and_are_no_error(store, command):
    path = root(store) / "parts" / f"{'e' * 32}-{'0' * 16}.parquet"
    path.write_bytes(b"left by a killed process")
    findings = list(verify_storage(store.storage))
    assert [finding.kind for finding in findings] == ["orphan"]
    done = command("featurestore", "verify", "s")
    assert done.code == 0 and path.name in done.out and "0 errors, 1 warning" in done.out


def test_damaged_records_manifests_and_labels_are_found(store):
    folder = root(store)
    (folder / "runs" / "run.json").write_text('{"ledger": {"images_in": 2, "rows": 1}}')
    assert kinds(store) == ["ledger"]
    (folder / "runs" / "run.json").write_text("{}")
    (folder / "labels").mkdir()
    (folder / "labels" / "v.parquet").write_bytes(b"no Parquet")
    (folder / "manifest" / "run.parquet").write_bytes(b"PAR1 cut")
    found = kinds(store)
    assert {"damaged_record", "damaged_manifest", "damaged_labels"} <= {*found}


def test_what_could_not_be_checked_is_said(store):
    path = part_paths(store)[0]
    path.write_bytes(path.read_bytes()[:-20])
    assert kinds(store) == ["checksum", "unchecked"]


def test_the_command_tells_and_exits_by_finding(store, command):
    clean = command("featurestore", "verify", "s")
    assert clean.code == 0 and "3 commits, 4 files and 60 images" in clean.out
    part_paths(store)[0].unlink()
    bad = command("featurestore", "verify", "s")
    assert bad.code == 1 and "error: missing_part: parts/" in bad.out and "fix: rm -f --" in bad.out
    assert "checked: 1 error, 1 warning" in bad.out
    as_json = command("featurestore", "verify", "s", "--json")
    facts = json.loads(as_json.out)
    assert as_json.code == 1 and as_json.err == "" and facts["errors"] == 1
    assert facts["findings"][0].keys() == {"severity", "kind", "path", "message", "fix"}
    quick = command("featurestore", "verify", "s", "--json", "--quick")
    assert quick.code == 1 and json.loads(quick.out)["checked"]["files"] == 0
    assert_one_line_error(command("featurestore", "verify", "none"), 2, "no feature store")
    assert_one_line_error(command("featurestore", "verify", "s", "--quik"), 2, "--quick")


def test_the_fix_of_a_lost_part_lets_the_chunk_be_made_anew(store):
    """The command is run as printed; then nothing of the chunk is left and the rest is sound."""
    import subprocess

    path = part_paths(store)[0]
    path.write_bytes(b"")
    (finding,) = [f for f in verify_storage(store.storage) if f.kind == "checksum"]
    subprocess.run(finding.fix.split("; then")[0], shell=True, check=True)
    assert kinds(store) == [] and len(read_markers(store.storage)) == 2
    add_chunk(store, make_rows(20, 0), features_of(20))
    assert [f.kind for f in verify_storage(store.storage) if f.kind != "store_ledger"] in (
        [],
        ["duplicate_key"],
    )


def test_memory_does_not_grow_with_the_rows(tmp_path):
    store = build(tmp_path / "s", make_spec((5, 5, 512), "float16"), chunks=0)
    block = features_of(500, (5, 5, 512))
    for start in range(0, 8000, 500):
        add_chunk(store, make_rows(500, start), block)
    assert memory_growth(store, "assert list(verify_storage(store.storage)) == []") < 75 << 20


def test_every_finding_has_a_severity():
    assert {Finding(kind, "p", "m").severity for kind in KINDS} == {"error", "warning"}
    with pytest.raises(ValueError, match="unknown kind"):
        Finding("oops", "p", "m")


def test_quarantine_is_counted_and_listed(tmp_path, command):
    store = make_store(tmp_path / "s")
    for number, kind in enumerate(["empty", "truncated", "truncated"]):
        bad = {**BAD, "key": f"{kind}/{number}.png", "kind": kind, "message": f"why\n{number}"}
        add_chunk(store, make_rows(1, number), features_of(1), [bad])
    done = command("featurestore", "quarantine", "s")
    lines = done.out.splitlines()
    assert done.code == 0 and lines[0] == "3 images in quarantine, by kind:"
    assert lines[1].split() == ["2", "truncated"] and lines[2].split() == ["1", "empty"]
    assert lines[3] == "empty: empty/0.png: why 0" and len(lines) == 6
    short = command("featurestore", "quarantine", "s", "--limit", "1", "--by", "folder")
    assert short.out.splitlines()[-1] == "and 2 more; --limit 0 lists all"
    facts = json.loads(command("featurestore", "quarantine", "s", "--json").out)
    assert facts["counts"] == {"truncated": 2, "empty": 1} and len(facts["images"]) == 3
    assert_one_line_error(command("featurestore", "quarantine", "s", "--by", "knd"), 2, "kind")
    assert_one_line_error(command("featurestore", "quarantine", "s", "--limit=-1"), 2, "--limit")
    make_store(tmp_path / "e")
    assert command("featurestore", "quarantine", "e").out == "0 images in quarantine\n"


def test_a_store_on_s3_is_checked(bucket, command):
    url, options = bucket
    store = build(f"{url}/s", None, 3, True, **options)
    assert list(verify_storage(Storage(f"{url}/s", options))) == []
    marker = next(iter(store.markers().values()))
    assert isinstance(marker, Marker)
    Storage(f"{url}/s", options).remove(f"markers/{marker.chunk_id}.json")
    assert kinds(store) == ["missing_marker"]
    setting = f"endpoint_url={options['endpoint_url']}"
    done = command("featurestore", "verify", f"{url}/s", "--storage_options", setting)
    assert done.code == 1 and "fix: delete markers/" in done.out
    done = command("featurestore", "verify", f"{url}-none/s", "--storage_options", setting)
    assert_one_line_error(done, 2, "store at")
