"""A tournament from its command to its page."""

import json

import pytest
from support.commands import assert_one_line_error
from support.images import write_images
from support.recipes import in_this_process

from featurestore import UsageError
from pipelines import tournament

FAST = ("extract.weights=none", "extract.image_size=32", "extract.precision=float32")
MODELS = "MobileNetV2,MobileNetV2:block_3_expand"


@pytest.fixture
def images(tmp_path):
    write_images(tmp_path / "in", 24)
    return tmp_path / "in"


def play(images, tmp_path, capsys, monkeypatch, models=MODELS, *flags):
    def execute(step, sink):
        return in_this_process(step)

    monkeypatch.setattr(tournament, "in_process_of_its_own", execute)
    where = ("--input", str(images), "--output", str(tmp_path / "out"), "--models", models)
    code = tournament.run([*where, "--set", *FAST, "--sample", "16", *flags])
    return code, capsys.readouterr().out


def test_bases_are_ranked_on_one_sample_and_a_second_call_only_looks_for_new_images(
    images, tmp_path, capsys, monkeypatch
):
    code, printed = play(images, tmp_path, capsys, monkeypatch)
    assert code == 0
    facts = json.loads((tmp_path / "out" / "tournament.json").read_text())
    assert {row["base"] for row in facts["standings"]} == set(MODELS.split(","))
    assert all(row["images"] and row["images_per_second"] > 0 for row in facts["standings"])
    assert facts["standings"][1]["compared"] == facts["standings"][0]["images"]
    assert "MobileNetV2:block_3_expand" in (tmp_path / "out" / "tournament.html").read_text()
    assert printed.splitlines()[-1].startswith("take MobileNetV2")
    _, printed = play(images, tmp_path, capsys, monkeypatch)
    assert printed.count("done before: python -m classifier.train") == 2


def test_a_base_that_fails_does_not_stop_the_others(images, tmp_path, capsys, monkeypatch):
    def execute(step, sink):
        return 2 if "no_such_layer" in step.arguments else in_this_process(step)

    monkeypatch.setattr(tournament, "in_process_of_its_own", execute)
    models = "MobileNetV2:no_such_layer,MobileNetV2"
    where = ("--input", str(images), "--output", str(tmp_path / "out"), "--models", models)
    assert tournament.run([*where, "--set", *FAST]) == 1
    assert "failed: MobileNetV2:no_such_layer: " in capsys.readouterr().out.splitlines()[-1]
    assert "ended with exit code 2" in (tmp_path / "out" / "tournament.html").read_text()


def test_a_plan_prints_the_commands_and_runs_nothing(images, tmp_path, capsys):
    where = ("--input", str(images), "--output", str(tmp_path / "out"), "--models", MODELS)
    tournament.run([*where, "--plan"])
    assert capsys.readouterr().out.count("\npython -m classifier.train") == 2
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="--sample must be 0 or more images, got -1"):
        tournament.run([*where, "--sample", "-1"])


def test_the_command_reports_a_mistake_in_one_line(command):
    wrong = command("pipelines.tournament", "--models", "a.keras,", "--output", "out")
    assert_one_line_error(wrong, 2, "--models: a base between commas is empty")
