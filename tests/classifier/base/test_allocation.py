"""What is freed stays with the process, unless its user decided otherwise."""

import os
import platform
import subprocess
import sys

import pytest

from classifier import runtime as allocation

GLIBC = platform.libc_ver()[0] == "glibc"
COUNT_FAULTS = """
import resource, sys
import numpy as np
from classifier.runtime import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
for _ in range(20):
    np.ones(4 << 20)  # 32 MiB
print(faults() - before)
"""


@pytest.mark.skipif(not GLIBC, reason="only glibc has this setting")
def test_a_freed_block_is_taken_again_without_page_faults():
    # Huge pages would need few faults either way.
    small = {**os.environ, "NUMPY_MADVISE_HUGEPAGE": "0"}
    found = {
        how: int(subprocess.check_output([sys.executable, "-c", COUNT_FAULTS, how], env=small))
        for how in ("keep", "leave")
    }
    assert found["keep"] * 5 < found["leave"]


@pytest.mark.parametrize("name", allocation.VARIABLES)
def test_the_users_own_setting_counts(monkeypatch, name):
    monkeypatch.setenv(name, "1000000")
    assert not allocation.keep_freed_memory()


def test_another_c_library_is_left_alone(monkeypatch):
    class Musl:
        pass

    monkeypatch.setattr(allocation.ctypes, "CDLL", lambda name: Musl())
    assert not allocation.keep_freed_memory()
