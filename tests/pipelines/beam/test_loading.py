"""Beam's clients of other systems stay out where the workers share this machine, and only there."""

from contextlib import nullcontext

import pytest

from pipelines.beam import loading

HERE = [(), ("--runner=DirectRunner",), ("--direct_num_workers=2", "--runner", "direct")]
ELSEWHERE = [
    ("--runner=DataflowRunner",),
    ("--runner", "FlinkRunner"),
    ("--runner=DirectRunner", "--runner=apache_beam.runners.dask.dask_runner.DaskRunner"),
    ("--runner",),
]


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("flags", HERE + ELSEWHERE)
def test_clients_are_hidden_for_the_local_runner_of_a_command(flags, ours, monkeypatch):
    hidden = []
    monkeypatch.setattr(loading, "is_ours", lambda: ours)
    monkeypatch.setattr(loading, "absent", lambda *names: hidden.append(names) or nullcontext())
    loading.load_beam(flags)
    assert hidden == [loading.CLIENTS] * (ours and flags in HERE)
