"""Names the machine and the libraries: a figure means nothing without them."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from featurestore.io.cores import cores

# The instructions that decide which precision is fast, in the order of the line.
FLAGS = (
    "avx2",
    "avx512f",
    "avx_vnni",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "amx_int8",
    "amx_fp16",
)
LIBRARIES = ("tensorflow", "keras", "openvino", "apache-beam", "pyarrow", "ray", "jax")
CPUINFO = Path("/proc/cpuinfo")


def machine(libraries: Sequence[str] = LIBRARIES) -> str:
    """Returns one line with the processor, its relevant instructions, memory and versions.

    Args:
      libraries: distributions to give the versions of; those not installed are left out.
    """
    facts = _facts()
    name = facts.get("model name") or platform.processor() or platform.machine()
    present = cpu_flags()
    parts = [name, f"{cores()} cores"]
    if memory := _memory():
        parts.append(f"{memory / 2**30:.0f} GB")
    parts.append(" ".join(flag for flag in FLAGS if flag in present) or "no AVX2")
    if not any(flag.startswith("amx") for flag in present):
        parts.append("no AMX")
    parts.append(f"Python {platform.python_version()}")
    parts += [f"{library} {found}" for library in libraries if (found := installed(library))]
    return ", ".join(parts)


def cpu_flags() -> frozenset[str]:
    """Returns the instructions of this processor, by the Linux kernel's names."""
    return frozenset(_facts().get("flags", "").split())


def _facts() -> dict[str, str]:
    return cpu_facts(CPUINFO.read_text() if CPUINFO.exists() else "")


def cpu_facts(text: str) -> dict[str, str]:
    """Reads the first processor of the text of ``/proc/cpuinfo``.

    Example:
      >>> cpu_facts("model name\\t: Some CPU\\nflags\\t\\t: fma avx2\\n\\nmodel name\\t: Other\\n")
      {'model name': 'Some CPU', 'flags': 'fma avx2'}
    """
    first = text.split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def installed(library: str) -> str | None:
    """Returns a distribution's version, or None where it is not installed."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _memory() -> int:
    """Returns this machine's memory in bytes, 0 when unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0
