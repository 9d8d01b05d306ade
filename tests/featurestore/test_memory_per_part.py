"""What a store of many parts costs in memory: so much a part that a million fit into 2 GB."""

import subprocess
import sys

import pytest
from support.commands import PEAK, ROOT

from benchmarks.scalestore import Scale, make_store

# Of so many parts that blocks of markers, which are in memory at a time, have their full size.
FEW, MANY = 12_000, 36_000
# Of 2 GB for a million parts, with room for what does not depend on their number.
BYTES_PER_PART = 1_800
# Compaction last, because it changes the store.
STEPS = ("open_it", "verify_quick", "finishing", "compaction")
SCRIPT = """
import sys
from benchmarks.scale import {name}
from benchmarks.scalestore import Scale
from featurestore.store import open_store

{name}(open_store(sys.argv[1]), {scale!r})
print({peak})
"""


def peak_of(folder, scale, name):
    """Returns the most bytes that a process held which took one step of `benchmarks.scale`."""
    script = SCRIPT.format(name=name, scale=scale, peak=PEAK)
    command = [sys.executable, "-c", script, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return int(done.stdout) * 1024


@pytest.fixture(scope="module")
def peaks(tmp_path_factory):
    """Peaks by number of parts and step."""
    found = {}
    for parts in (FEW, MANY):
        folder = tmp_path_factory.mktemp("scale") / "store"
        scale = Scale(parts, images_per_part=1, real_parts=1000, listed=parts)
        make_store(folder, scale)
        for name in STEPS:
            found[parts, name] = peak_of(folder, scale, name)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_a_part_more_takes_little_memory(peaks, name):
    growth = (peaks[MANY, name] - peaks[FEW, name]) / (MANY - FEW)
    assert 400 < growth < BYTES_PER_PART, peaks
