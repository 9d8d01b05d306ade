"""Damaged image files of every format: each is a row or has a reason in the quarantine."""

import json
from collections import Counter

import numpy as np
import pytest
from support.commands import run_command
from support.mutants import HUGE_SIZES, MUTATIONS, declare_size, originals, write_mutants
from support.soak import SMALL, SOAK, run_measured

from classifier.pixels.decoder import decode
from classifier.pixels.filetypes import BAD_KINDS, BadImage
from featurestore import open_store
from featurestore.cli.command import say
from featurestore.io.cores import cores
from featurestore.spec import PixelSpec

FILES = 2000 if SOAK else 200
SEED = 20
MEMORY_LIMIT = 12 << 30
# An image just inside the limit of pixels takes 0.7 GB while a lane decodes it.
PEAK_LIMIT = (1 + cores()) << 30
TIMEOUT = 900.0


def test_every_damaged_file_is_a_row_or_quarantined(tmp_path):
    damages = write_mutants(tmp_path / "mutants", FILES, SEED)
    assert len(damages) == FILES
    flags = ("--input", "mutants", "--output", "s", *SMALL, "--max_bad_fraction", "1", "--json")
    done = run_measured(
        "pipelines.extract", *flags, cwd=tmp_path, data_limit=MEMORY_LIMIT, timeout=TIMEOUT
    )
    assert (done.code, done.err) == (0, "")
    assert done.peak_bytes < PEAK_LIMIT, f"{done.peak_bytes >> 20} MiB"
    record = json.loads(done.out)
    ledger = record["ledger"]
    assert ledger["images_in"] == FILES == ledger["rows"] + ledger["quarantined"]
    assert ledger["dead_chunks"] == ledger["ignored"] == 0
    store = open_store(str(tmp_path / "s"))
    rows, bad = list(store.load(["key"])["key"]), list(store.quarantined())
    assert Counter(list(damages)) == Counter([*rows, *(row["key"] for row in bad)])
    assert {row["kind"] for row in bad} < {*BAD_KINDS, "non_finite"}
    assert all(row["message"] and "\n" not in row["message"] for row in bad)
    tried_again = run_command("pipelines.extract", *flags, cwd=tmp_path)
    assert tried_again.code == 0 and json.loads(tried_again.out)["ledger"]["images_in"] == 0
    say(
        f"{FILES:,} damaged files: {ledger['rows']:,} rows, {record['quarantined_by_kind']}, "
        f"{done.seconds:.0f} s, {done.peak_bytes >> 20:,} MiB at most"
    )
    for mutation in MUTATIONS:
        keys = {key for key, name in damages.items() if name == mutation.__name__}
        say(f"  {mutation.__name__}: {len(keys & set(rows))} rows of {len(keys)}")


def test_the_damage_is_the_same_every_time(tmp_path):
    one, other = (write_mutants(tmp_path / name, 100, SEED) for name in ("one", "other"))
    assert one == other
    for key in one:
        assert (tmp_path / "one" / key).read_bytes() == (tmp_path / "other" / key).read_bytes()


@pytest.mark.parametrize("kind", originals())
def test_whole_files_are_read_and_declared_sizes_are_found(kind):
    data, spec = originals()[kind], PixelSpec((32, 32))
    decoded = decode(data, spec)
    assert (decoded.width, decoded.height) == (64, 48)
    assert declare_size(data, 64, 48) == data or kind.startswith("tiff")
    decoded = decode(declare_size(data, 64, 48), spec)
    assert (decoded.width, decoded.height) == (64, 48)
    for width, height in HUGE_SIZES:
        with pytest.raises(BadImage):
            decode(declare_size(data, width, height), spec)


@pytest.mark.parametrize("kind", originals())
def test_a_cut_file_is_read_as_the_whole_image_or_not_at_all(kind):
    data, spec = originals()[kind], PixelSpec((48, 64))
    whole = decode(data, spec).pixels
    cuts = (
        range(len(data)) if SOAK else [*range(0, len(data), 41), *range(len(data) - 9, len(data))]
    )
    for cut in cuts:
        try:
            pixels = decode(data[:cut], spec).pixels
        except BadImage:
            continue
        # Bytes at the end that hold no pixels, such as GIF's last one.
        assert cut >= len(data) - 4 and np.array_equal(pixels, whole)


@pytest.mark.parametrize("kind", [kind for kind in originals() if kind.startswith("jpeg")])
def test_a_jpeg_that_is_cut_and_closed_is_not_read(kind):
    data = originals()[kind]
    with pytest.raises(BadImage):
        decode(data[: len(data) * 3 // 4] + b"\xff\xd9", PixelSpec((32, 32)))
