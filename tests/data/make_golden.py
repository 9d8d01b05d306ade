"""Makes tests/data/golden, a small copy of everything the current format writes.

    python tests/data/make_golden.py

Run it only for a new format, into a new folder: what is committed stands for the stores and runs
that users have, and every later version must open it. `tests/featurestore/test_golden.py` does so.

The images' addresses are ``s3://hoarfrost-golden/photos/...``, not paths: an address of a file is
absolute and would hold on one machine only. A server of the S3 protocol on this machine answers
for the bucket, here and in the test; its tags are checksums, so that an unchanged image stays
unchanged wherever the files are copied to.
"""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
# Records name the folder a run was made in: not anyone's home.
GOLDEN = Path(tempfile.gettempdir()) / "golden"
BUCKET = "hoarfrost-golden"
PHOTOS = f"s3://{BUCKET}/photos"
# Of the first run; the second one finds CHANGED in its place, and ADDED beside it.
CHANGED, ADDED = "train/china/00.jpg", "train/flower/extra.jpg"
BROKEN = "train/china/broken.jpg"
RELABELLED = {"test/china/00.jpg": "flower", "test/flower/00.jpg": "flower"}
PREDICTED = ("test/china/01.jpg", "test/china/02.jpg", "test/flower/01.jpg", "test/flower/02.jpg")
COUNTS = {"train": 8, "val": 3, "test": 3}
EXTRACT = ("--image_size", "32", "--chunk_size", "16", "--batch_size", "16")
EXTRACT += ("--engine", "tensorflow", "--precision", "float32", "--runner=DirectRunner")
HEADS = ("--head", "linear", "--head", "mlp:8:relu:dropout=0.2", "--head", "ridge")


def write_images(folder: Path) -> None:
    """Cuts photographs of scikit-learn into small JPEG files of two classes."""
    from sklearn.datasets import load_sample_image

    rng = np.random.default_rng(0)
    for name in ("china", "flower"):
        photograph = Image.fromarray(load_sample_image(f"{name}.jpg"))
        for split, count in COUNTS.items():
            for number in range(count):
                _write_crop(photograph, folder / "first" / split / name / f"{number:02d}.jpg", rng)
        if name == "china":
            _write_crop(photograph, folder / "second" / CHANGED, rng)
        else:
            _write_crop(photograph, folder / "second" / ADDED, rng)
    whole = (folder / "first" / CHANGED).read_bytes()
    (folder / "first" / BROKEN).write_bytes(whole[: len(whole) // 2])


def _write_crop(photograph: Image.Image, path: Path, rng: np.random.Generator) -> None:
    """Writes 48x40 pixels of a random place."""
    left, top = rng.integers(0, photograph.width - 192), rng.integers(0, photograph.height - 160)
    sink = io.BytesIO()
    piece = photograph.crop((left, top, left + 192, top + 160))
    piece.resize((48, 40)).save(sink, "JPEG", quality=80)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(sink.getvalue())


def write_model(path: Path) -> None:
    """Writes a convolutional network of 1,100 weights."""
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = keras.Input((32, 32, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="first")(x)
    x = layers.Conv2D(12, 3, strides=4, padding="same", activation="relu", name="second")(x)
    keras.Model(inputs, x, name="tiny").save(path)


def run(*arguments: str) -> str:
    """Runs ``python -m ARGUMENTS`` in the golden folder; returns what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(
        command, cwd=GOLDEN, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}{done.stdout}")
    return done.stdout


def upload(folder: Path) -> None:
    """Puts the images below `folder` into the bucket."""
    import s3fs

    s3 = s3fs.S3FileSystem(endpoint_url=os.environ["AWS_ENDPOINT_URL"], skip_instance_cache=True)
    s3.makedirs(BUCKET, exist_ok=True)
    for path in sorted(folder.rglob("*.jpg")):
        s3.pipe_file(f"{PHOTOS}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def extract_both() -> None:
    """Extracts maps in two views, and embeddings."""
    common = ("pipelines.extract", "--input", PHOTOS, "--model", "tiny.keras", *EXTRACT)
    run(*common, "--output", "maps", "--views", "2", "--augment", "flip,rotation=0.1")
    run(*common, "--output", "embeddings", "--pooling", "avg")


def expected() -> dict:
    """Returns what the stores and the run say today."""
    sys.path.insert(0, str(ROOT))
    from featurestore import open_store

    facts: dict = {}
    for name in ("maps", "embeddings"):
        store = open_store(str(GOLDEN / name))
        rows = store.load(["key", "view", "labels", "split", "features"])
        order = sorted(range(len(rows["key"])), key=lambda i: (rows["key"][i], rows["view"][i]))
        facts[name] = {
            "rows": [[rows["key"][i], int(rows["view"][i])] for i in order],
            "labels": [list(rows["labels"][i]) for i in order],
            "splits": [rows["split"][i] for i in order],
            "means": [round(float(rows["features"][i].astype("f8").mean()), 6) for i in order],
            "quarantined": [row["key"] for row in store.quarantined()],
            "ledger": asdict(store.ledger()),
        }
    leaderboard = json.loads((GOLDEN / "run" / "leaderboard.json").read_text())
    facts["leaderboard"] = leaderboard
    images = [f"images/first/{name}" for name in PREDICTED]
    predictions = {}
    for head in sorted(path.stem for path in (GOLDEN / "run" / "heads").glob("*.keras")):
        out = run("classifier.predict", "--run", "run", "--head_id", head, "--json", *images)
        predictions[head] = json.loads(out)["predictions"]
    facts["predictions"] = predictions
    return facts


def main() -> None:
    """Makes the folder anew."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    shutil.rmtree(GOLDEN, ignore_errors=True)
    GOLDEN.mkdir()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "test-key",
        "AWS_SECRET_ACCESS_KEY": "test-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "HOARFROST_CACHE_FOLDER": tempfile.mkdtemp(prefix="hoarfrost-golden-"),
    }
    write_images(GOLDEN / "images")
    write_model(GOLDEN / "tiny.keras")
    upload(GOLDEN / "images" / "first")
    extract_both()
    upload(GOLDEN / "images" / "second")
    extract_both()
    labels = "key,label\n" + "".join(f"{key},{name}\n" for key, name in RELABELLED.items())
    (GOLDEN / "labels.csv").write_text(labels)
    for name in ("maps", "embeddings"):
        run("featurestore", "relabel", name, "--labels", "labels.csv")
    training = ("--epochs", "40", "--lr", "0.01", "--l2", "1e-3", "--cache", "off")
    run("classifier.train", "--store", "embeddings", "--output", "run", *HEADS, *training)
    run("classifier.evaluate", "--run", "run", "--store", "embeddings", "--split", "test")
    text = json.dumps(expected(), indent=1, sort_keys=True)
    (GOLDEN / "expected.json").write_text(text + "\n")
    server.stop()
    # Pictures are for people; no command reads them.
    for picture in GOLDEN.joinpath("run").rglob("*.png"):
        picture.unlink()
    shutil.rmtree(HERE / "golden", ignore_errors=True)
    shutil.move(GOLDEN, HERE / "golden")


if __name__ == "__main__":
    main()
