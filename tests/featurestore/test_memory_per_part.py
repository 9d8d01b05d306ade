"""What a store of many parts costs in memory: so much a part that a million fit into 2 GB."""

import pytest

from benchmarks.scale import measure
from benchmarks.scalestore import Scale, make_store

# Of so many parts that blocks of markers, which are in memory at a time, have their full size.
FEW, MANY = 12_000, 36_000
# Of 2 GB for a million parts, with room for what does not depend on their number.
BYTES_PER_PART = 1_500
# Compaction last, because it changes the store.
STEPS = ("opening", "verify_quick", "finishing", "compaction")


@pytest.fixture(scope="module")
def peaks(tmp_path_factory):
    """Bytes of anonymous memory by number of parts and step, each in a process of its own."""
    found = {}
    for parts in (FEW, MANY):
        folder = tmp_path_factory.mktemp("scale") / "store"
        scale = Scale(parts, images_per_part=1, real_parts=1000, listed=parts)
        make_store(folder, scale)
        for name in STEPS:
            found[parts, name] = measure(folder, scale, name)["peak_bytes"]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_a_part_more_takes_little_memory(peaks, name):
    growth = (peaks[MANY, name] - peaks[FEW, name]) / (MANY - FEW)
    assert 0 < growth < BYTES_PER_PART
