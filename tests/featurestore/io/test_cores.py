import math
import os

import pytest

from featurestore.io import cores as module
from featurestore.io.cores import container_limit, cores


def write(folder, **files):
    """Writes the files of one control group; a point in a name is written as two underscores."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.fixture
def groups(tmp_path):
    """A folder of control groups, and the file that names those of a process."""

    def named(*lines):
        (tmp_path / "own").write_text("\n".join(lines) + "\n")
        return container_limit(tmp_path / "groups", tmp_path / "own")

    (tmp_path / "groups").mkdir()
    named.root = tmp_path / "groups"
    return named


@pytest.mark.parametrize(
    ("quota", "limit"),
    [("250000 100000\n", 2.5), ("50000 100000\n", 0.5), ("max 100000\n", math.inf)],
)
def test_version_2_says_quota_and_period_in_one_file(groups, quota, limit):
    write(groups.root, cpu__max=quota)
    assert groups("0::/") == limit


def test_the_lowest_limit_of_the_groups_around_a_process_counts(groups):
    write(groups.root / "kubepods", cpu__max="200000 100000")
    write(groups.root / "kubepods/pod", cpu__max="max 100000")
    write(groups.root / "kubepods/pod/main", cpu__max="400000 100000")
    assert groups("0::/kubepods/pod/main") == 2.0


@pytest.mark.parametrize("mount", ["cpu,cpuacct", "cpu"])
@pytest.mark.parametrize(("quota", "limit"), [("150000\n", 1.5), ("-1\n", math.inf)])
def test_version_1_says_them_in_two(groups, mount, quota, limit):
    write(groups.root / mount / "job", cpu__cfs_quota_us=quota, cpu__cfs_period_us="100000\n")
    assert groups("5:memory:/job", "4:cpu,cpuacct:/job") == limit


def test_a_container_that_knows_its_name_on_the_host_finds_its_limit_at_the_top(groups):
    write(groups.root / "cpu", cpu__cfs_quota_us="100000", cpu__cfs_period_us="100000")
    assert groups("4:cpu,cpuacct:/docker/0123abcd") == 1.0


def test_a_machine_without_control_groups_has_no_limit(tmp_path):
    assert container_limit(tmp_path / "none", tmp_path / "none either") == math.inf


@pytest.mark.parametrize(("limit", "expected"), [(0.2, 1), (1.0, 1), (1.5, 2), (math.inf, 3)])
def test_cores_are_those_of_the_affinity_within_the_limit(monkeypatch, limit, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    monkeypatch.setattr(module, "container_limit", lambda: limit)
    assert cores() == expected
