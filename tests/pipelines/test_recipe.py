"""Recipes from their first step to their last: what runs, what is done already, what fails."""

import json

import pytest
from support.commands import assert_one_line_error
from support.images import write_images
from support.recipes import run_recipe, store_of

from classifier.recipes.recipe import read_recipe
from featurestore import UsageError
from featurestore.io.storage import Storage
from pipelines import recipe as recipe_command
from pipelines.execution import StepFailed, run_steps
from pipelines.steps import steps_of

SMALL = """
extract:
  model: MobileNetV2
  weights: none
  pooling: avg
  image_size: 32
  precision: float32
train:
  head: linear
  lr: 1e-2
  epochs: 2
evaluate:
export:
  format: keras
  rows: 2
"""


@pytest.fixture
def small(tmp_path):
    (tmp_path / "small.yaml").write_text(SMALL)
    return str(tmp_path / "small.yaml")


@pytest.fixture
def images(tmp_path):
    write_images(tmp_path / "in", 24)
    return tmp_path / "in"


def sections(facts):
    return [command.split()[2].split(".")[1] for command in facts["commands"]]


def test_the_steps_of_a_recipe_lead_into_each_other():
    steps = steps_of(read_recipe("vgg16-150"), ["photos", "more"], "out/")
    assert [step.typed.split(" --", 2)[1:] for step in steps][0][0] == "input photos more"
    typed = [step.typed for step in steps]
    assert typed[0].startswith("python -m pipelines.extract --input photos more --output out/store")
    assert typed[1].startswith("python -m classifier.train --store out/store --output out/run --h")
    assert typed[2] == "python -m classifier.evaluate --run out/run --store out/store"
    assert typed[3].endswith("--run out/run --output out/model.keras --format keras")


def test_steps_that_are_done_do_not_run_again(small, images, tmp_path):
    text = (tmp_path / "small.yaml").read_text().partition("evaluate:")[0]
    (tmp_path / "small.yaml").write_text(text)
    out = tmp_path / "out"
    facts = run_recipe(small, images, out)
    assert sections(facts) == ["extract", "train"]
    assert store_of(out).spec.feature_shape == (1280,)
    assert sections(run_recipe(small, images, out)) == ["extract"], "it finds nothing new"
    facts = run_recipe(small, images, out, "train.epochs=3")
    assert sections(facts) == ["extract", "train"] and "--overwrite" in facts["commands"][1]


@pytest.mark.slow
def test_only_what_has_changed_runs_again(small, images, tmp_path):
    out = tmp_path / "out"
    facts = run_recipe(small, images, out)
    assert sections(facts) == ["extract", "train", "evaluate", "export"]
    (run,) = facts["runs"]
    assert set(run["accuracy"]) == {"validation"} and run["report"]
    assert str(out / "model.keras") in facts["files"]
    write_images(images / "more", 4, seed=7)
    facts = run_recipe(small, images, out)
    assert sections(facts) == ["extract", "train", "evaluate", "export"], "there are new rows"
    assert all(command.endswith("--overwrite") for command in facts["commands"][1::2])
    (out / "model.keras").unlink()
    facts = run_recipe(small, images, out)
    assert sections(facts) == ["extract", "export"] and "--overwrite" not in facts["commands"][1]


def test_a_failed_step_ends_the_recipe_with_its_exit_code(small, images, tmp_path):
    steps = steps_of(read_recipe(small), [str(images)], str(tmp_path / "out"))
    ran = []

    def execute(step):
        ran.append(step.section)
        return 3

    with pytest.raises(StepFailed, match="pipelines.extract .* ended with exit code 3") as caught:
        run_steps(steps, Storage(str(tmp_path / "out")), execute, lambda line: None)
    assert caught.value.exit_code == 3 and ran == ["extract"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["train.lr=fast"], "--set train.lr=fast: --lr: expected numbers"),
        (["export.fromat=onnx"], "key of export: unknown value 'fromat'; did you mean format"),
        (["trian.lr=1"], "section: unknown value 'trian'; did you mean train"),
        (["train.lr"], "--set: expected SECTION.FLAG=VALUE, got 'train.lr'"),
        (["extract.image_size=8x"], "--set extract.image_size=8x: --image_size: expected 180"),
    ],
)
def test_mistakes_in_later_steps_are_found_before_the_first(small, changes, message):
    with pytest.raises(UsageError, match=message):
        steps_of(read_recipe(small).with_settings(changes), ["in"], "out")


def test_a_flag_that_is_missing_can_be_set(tmp_path):
    (tmp_path / "a.yaml").write_text("extract:\ntrain:\nexport:\n")
    with pytest.raises(UsageError, match="required: --format.*--set export.FLAG=VALUE"):
        steps_of(read_recipe(str(tmp_path / "a.yaml")), ["in"], "out")
    (tmp_path / "a.yaml").write_text("about:\n  title: nothing\n")
    with pytest.raises(UsageError, match="has no section to run"):
        steps_of(read_recipe(str(tmp_path / "a.yaml")), ["in"], "out")


def test_a_plan_runs_nothing(tmp_path, capsys):
    out = tmp_path / "out"
    recipe_command.run(["vgg16-180", "--input", "photos", "--output", str(out), "--plan"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and all(line.startswith("python -m ") for line in lines)
    assert not out.exists()


@pytest.mark.slow
def test_the_command_prints_each_step_and_a_summary(small, images, tmp_path, command):
    flags = ("--input", images, "--output", "out", "--set", "train.epochs=1")
    text = (tmp_path / "small.yaml").read_text().partition("export:")[0]
    (tmp_path / "small.yaml").write_text(text)
    done = command("pipelines.recipe", "small.yaml", *map(str, flags))
    assert done.code == 0, done.err
    assert (
        "$ python -m classifier.train --store out/store --output out/run --head linear" in done.out
    )
    assert "validation accuracy" in done.out and "report  out/run/report.html" in done.out
    again = command("pipelines.recipe", "small.yaml", *map(str, flags), "--json")
    facts = json.loads(again.out)
    assert [run["run"] for run in facts["runs"]] == ["out/run"]
    assert len(facts["commands"]) == 1
    wrong = command("pipelines.recipe", "smal.yaml", "--output", "out")
    assert_one_line_error(wrong, 2, "--recipe: cannot read 'smal.yaml'")
