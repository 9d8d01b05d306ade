"""A store and an input behind a network that fails: tried again, told, and never a crash."""

import io
import itertools
import json
import shutil
import uuid
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import s3fs
from support.commands import run_command
from support.extraction import assert_same_rows, distance, make_tar, rows_of, run
from support.faulty_proxy import TRANSIENT, FaultyProxy, always, first_times, random_faults
from support.images import write_images
from support.soak import SMALL, SOAK
from support.stores import find_orphans

from classifier.inputs import InputOptions, list_inputs
from featurestore import open_store
from featurestore.checking.verify import verify_storage
from featurestore.cli.command import say
from featurestore.io.storage import Storage

RATE = 0.1
ROUNDS = 10 if SOAK else 1
SECRET, ACCESS_KEY = "hoar-SECRET-9f2c", "hoar-ACCESS-77aa"
# The client's own repetitions are few, so that ours are met, and waits stay small.
CLIENT = '{"retries": {"max_attempts": 1}, "connect_timeout": 5, "read_timeout": 5}'


@pytest.fixture
def proxy(s3_server):
    return FaultyProxy(s3_server[0])


@pytest.fixture
def remote(proxy, bucket):
    """A bucket behind the proxy: (url, storage options, the options as flags)."""
    url, direct = bucket
    with proxy.running() as endpoint:
        options = {"endpoint_url": endpoint, "config_kwargs": json.loads(CLIENT)}
        flags = ["--storage_options", f"endpoint_url={endpoint}", f"config_kwargs={CLIENT}"]
        yield url, options, flags, Storage(url, direct)


def upload(storage: Storage, folder: Path) -> None:
    """Copies a folder to the bucket, past the proxy."""
    for path in folder.rglob("*.*"):
        if path.is_file():
            storage.write(str(path.relative_to(folder.parent)), path.read_bytes())


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("input") / "photos"
    write_images(folder, 120)
    return folder


@pytest.fixture
def some(photos, tmp_path):
    """A folder with eight of the photos, and with a shard of the same."""
    images = sorted(photos.rglob("*.jpeg"))[56:64]
    for image in images:
        copy = tmp_path / "some" / image.relative_to(photos.parent)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, copy)
    make_tar(tmp_path / "some" / "0.tar", images)
    return tmp_path / "some"


@pytest.fixture(scope="module")
def reference(photos, tmp_path_factory):
    """An undisturbed run over `photos`."""
    return run("--input", photos, "--output", tmp_path_factory.mktemp("r") / "s", *SMALL).store


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_transient_faults_are_not_seen_in_the_result(
    seed, proxy, remote, photos, reference, tmp_path
):
    url, options, flags, direct = remote
    upload(direct, photos)
    arguments = ["--input", f"{url}/photos", "--output", f"{url}/store", *SMALL, *flags]
    proxy.schedule = random_faults(RATE, seed)
    assert run(*arguments, "--chunk_size", 20, "--limit", 60).record["ledger"]["rows"] == 60
    outcome = run(*arguments, "--chunk_size", 20)
    assert outcome.problems == () and outcome.exit_code == 0
    assert outcome.record["already_committed"] == 60
    assert outcome.record["ledger"]["quarantined"] == outcome.record["ledger"]["dead_chunks"] == 0
    assert_same_rows(reference, outcome.store)
    store = open_store(f"{url}/store", options)
    scanned = sum(len(batch["key"]) for batch in store.scan(["key", "features"]))
    assert scanned == 120
    train = ["classifier.train", "--store", f"{url}/store", "--output", "run", "--epochs", "2"]
    trained = run_command(*train, *flags, cwd=tmp_path)
    assert (trained.code, trained.err) == (0, "")
    say(f"seed {seed}: {sum(proxy.faults.values())} faults in {proxy.requests:,} requests")
    assert set(proxy.faults) == set(TRANSIENT)
    proxy.schedule = lambda method, path: ""
    assert find_orphans(store.storage, store.markers()) == set()
    assert list(verify_storage(store.storage)) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fault"),
    list(itertools.product(["0.tar", "photos"], TRANSIENT))
    if SOAK
    else [("0.tar", "500"), ("photos", "cut")],
)
def test_every_request_may_fail_once(name, fault, proxy, remote, some, reference):
    url, _, flags, direct = remote
    upload(direct, some)
    proxy.schedule = first_times(fault)
    outcome = run("--input", f"{url}/some/{name}", "--output", f"{url}/store", *SMALL, *flags)
    proxy.schedule = lambda method, path: ""
    assert outcome.exit_code == 0 and proxy.faults[fault] > 20
    expected = {Path(key).stem: row for key, row in rows_of(reference).items()}
    found = rows_of(outcome.store)
    assert len(found) == 8
    for key, row in found.items():
        assert distance(row, expected[Path(key).stem]) < 1e-4


@pytest.mark.parametrize("name", ["0.tar", "photos", "photos/*/*.jpeg"])
@pytest.mark.parametrize("fault", ["500", "refused"])
def test_a_listing_is_whole_though_every_request_failed_twice(
    name, fault, proxy, remote, some, monkeypatch
):
    # Without the client's repetitions, so that ours are met.
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    url, options, _, direct = remote
    upload(direct, some)
    proxy.schedule = first_times(fault, 2)
    listed = list(list_inputs([f"{url}/some/{name}"], InputOptions(storage_options=options)))
    assert proxy.faults[fault] >= 2
    assert [ref.key for ref in listed][:1] == ["0.tar"] if name == "0.tar" else len(listed) == 8


@pytest.mark.parametrize("fault", ["403", "500", "cut"] if SOAK else ["403", "cut"])
def test_an_image_that_stays_unreadable_is_quarantined_and_tried_again(
    fault, proxy, remote, some, monkeypatch
):
    # The client's repetitions wait too.
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    url, _, flags, direct = remote
    upload(direct, some)
    name = sorted(path.name for path in some.rglob("*.jpeg"))[3]
    proxy.schedule = always(fault, "GET", f"/{name}")
    arguments = ("--input", f"{url}/some/photos", "--output", f"{url}/store", *SMALL, *flags)
    outcome = run(*arguments, "--max_bad_fraction", 1)
    assert outcome.exit_code == 0
    (bad,) = outcome.store.quarantined()
    assert (bad["key"].split("/")[-1], bad["kind"]) == (name, "unreadable")
    assert bad["message"] and "\n" not in bad["message"]
    proxy.schedule = lambda method, path: ""
    outcome = run(*arguments)
    assert outcome.record["ledger"]["rows"] == 1 and not list(outcome.store.quarantined())
    assert len(rows_of(outcome.store)) == 8


@pytest.mark.parametrize("fault", ["500", "403"] if SOAK else ["500"])
def test_a_shard_that_stays_unreadable_is_a_dead_chunk(fault, proxy, remote, photos, tmp_path):
    url, _, flags, direct = remote
    images = sorted(photos.rglob("*.jpeg"))
    for number in range(2):
        make_tar(tmp_path / f"{number}.tar", images[number * 10 : number * 10 + 10])
        direct.write(f"shards/{number}.tar", (tmp_path / f"{number}.tar").read_bytes())
    proxy.schedule = always(fault, "GET", "/1.tar")
    arguments = ["--input", f"{url}/shards", "--output", f"{url}/store", *SMALL, *flags]
    done = run_command("pipelines.extract", *arguments, cwd=tmp_path)
    assert done.code == 3
    assert len(done.err.splitlines()) == 1 and "1 dead chunk, first at '1.tar'" in done.err
    summary = json.loads(direct.read("store/summary.json"))
    assert (summary["ledger"]["rows"], summary["ledger"]["dead_chunks"]) == (10, 1)
    proxy.schedule = lambda method, path: ""
    outcome = run(*arguments)
    assert outcome.exit_code == 0 and len(rows_of(outcome.store)) == 20


def test_a_store_that_is_out_of_reach_is_one_line(proxy, remote, photos, tmp_path):
    url, _, flags, _ = remote
    proxy.schedule = lambda method, path: "403" if "store" in path else ""
    arguments = ["--input", str(photos), "--output", f"{url}/store", *SMALL, *flags]
    done = run_command("pipelines.extract", *arguments, cwd=tmp_path)
    assert done.code == 2 and done.err.startswith("error: ") and len(done.err.splitlines()) == 1


def everything_in(storage: Storage) -> str:
    """Returns the text of all files of a store, those of its tables unpacked."""
    texts = []
    for file in storage.list(""):
        data = storage.read(file.name)
        texts.append(file.name + data.decode("latin-1"))
        if file.name.endswith(".parquet"):
            table = pq.read_table(io.BytesIO(data))
            names = [name for name in table.schema.names if name not in ("features", "pixels")]
            texts.append(f"{table.schema}{table.select(names).to_pylist()}")
    return "".join(texts)


@pytest.mark.slow
@pytest.mark.parametrize("verbose", ["", "1"] if SOAK else ["1"])
def test_credentials_reach_neither_store_nor_logs_nor_errors(
    verbose, proxy, remote, some, tmp_path
):
    url, _, flags, direct = remote
    upload(direct, some)
    images = sorted(path.name for path in some.rglob("*.jpeg"))
    keys = [f"key={ACCESS_KEY}", f"secret={SECRET}"]
    broken, refused = f"/{images[2]}", always("403", "GET", f"/{images[3]}")

    def faults(method: str, path: str) -> str:
        shard = always("500", "GET", "/0.tar")(method, path)
        return refused(method, path) or always("500", "GET", broken)(method, path) or shard

    proxy.schedule = faults
    secrets = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    environment = {**secrets, "HOARFROST_VERBOSE": verbose}
    store = ["--store", f"{url}/store", *flags, *keys]
    extracting = ["pipelines.extract", "--output", f"{url}/store"]
    extracting += ["--input", f"{url}/some/photos", f"{url}/some/0.tar"]
    outputs = []
    for code, command in (
        (3, [*extracting, *SMALL, "--max_bad_fraction", "1", *flags, *keys]),
        (0, ["classifier.train", *store, "--output", "run", "--epochs", "1"]),
        (2, [*extracting, *SMALL, "--fit", "crop", *flags, *keys]),
        (2, ["classifier.train", *store, "--output", "run2", "--head", "nothing"]),
        (0, ["featurestore", "quarantine", f"{url}/store", "--json", *flags, *keys]),
    ):
        done = run_command(*command, cwd=tmp_path, **environment)
        assert done.code == code, done
        outputs.append(done.out + done.err)
    local = "".join(p.read_bytes().decode("latin-1") for p in tmp_path.rglob("*") if p.is_file())
    text = "".join(outputs) + everything_in(Storage(f"{direct.url}/store", direct.options)) + local
    assert "on purpose" in text, "the store's own words are told"
    for secret in (SECRET, ACCESS_KEY, "Signature="):
        assert secret not in text


def test_a_lost_answer_to_a_commit_is_a_win(proxy, remote):
    """The marker was created, but its writer never heard of it; its own file is no rival's."""
    url, options, _, _ = remote
    storage, name = Storage(f"{url}/store", options), f"markers/{uuid.uuid4().hex}.json"
    met = []

    def lose_once(method: str, path: str) -> str:
        if method == "PUT" and not met:
            met.append(path)
            return "lost"
        return ""

    proxy.schedule = lose_once
    assert storage.create(name, b"mine")
    assert met and not storage.create(name, b"theirs")
    assert storage.read(name) == b"mine"


def test_another_jobs_commit_is_seen_although_the_folder_was_listed_before(remote):
    url, options, _, direct = remote
    ours, theirs = Storage(f"{url}/store", options), Storage(f"{url}/store", direct.options)
    ours.write("markers/one.json", b"one")
    assert [file.name for file in ours.list("markers")] == ["one.json"]
    assert theirs.create("markers/two.json", b"theirs")
    assert not ours.create("markers/two.json", b"ours")
    assert ours.read("markers/two.json") == b"theirs"
    assert ours.read_many(["markers/two.json"]) == {"markers/two.json": b"theirs"}
