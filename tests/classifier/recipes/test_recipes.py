"""Recipes as files: what they may say, how their flags meet those of the user, and their page."""

import json
import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.commands import ROOT, assert_one_line_error

from classifier import train
from classifier.recipes.__main__ import run
from classifier.recipes.arguments import arguments_of, with_recipe, without
from classifier.recipes.recipe import (
    COMMANDS,
    FACTS,
    Setting,
    parse_recipe,
    read_recipe,
    recipe_names,
)
from classifier.training.flags import options_of
from featurestore import UsageError
from featurestore.cli.command import Parser
from pipelines.extract import parse_options

NAMES = recipe_names()


def written(tmp_path, text, name="mine.yaml"):
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def typed(*argv):
    """What `classifier.train` reads from arguments."""
    with with_recipe("train", train.parser(), ["--store", "s", "--output", "r", *argv]) as found:
        return options_of(train.parser().parse_args(found), {})


def test_the_recipes_of_the_tutorials_are_there():
    assert set(NAMES) == {
        *("vgg16-150", "vgg16-180", "vgg16-180-augmented", "vgg16-180-finetuned"),
        *("mobilenetv2-224-breeds", "mobilenetv2-imagenet", "mobilenetv2-96-tflite"),
        *("xception-150", "convnet-scratch", "convnet-scratch-augmented", "mnist-convnet"),
        "digits",
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_says_where_it_comes_from_and_what_to_expect(name):
    about = read_recipe(name).about
    assert {"title", "source", "input", "features", "published", "cost"} <= set(about) <= set(FACTS)


def test_flags_of_a_recipe_are_those_that_would_be_typed():
    options = typed("--recipe", "vgg16-150")
    assert options == typed(
        *"--head mlp:256:relu:dropout=0.5 --optimizer adam --lr 1e-4 --batch_size 64".split(),
        *"--epochs 30 --standardise none".split(),
    )
    assert (options.lr, options.batch_size, options.standardise) == ((1e-4,), 64, "none")


def test_given_flags_win():
    options = typed("--recipe=vgg16-150", "--lr", "0.5,0.1", "--head", "linear")
    assert options.lr == (0.5, 0.1) and options.epochs == 30
    assert [str(head) for head in options.heads] == ["linear"]
    found, _ = parse_options(["--recipe", "vgg16-150", "--image_size=64", "--input", "photos"])
    assert (found.base.image_size, found.base.model) == ((64, 64), "VGG16")
    assert found.pixels["resize"] == "nearest" and found.inputs == ("photos",)


def test_lists_switches_and_words_of_a_file_reach_the_parsers_as_text(tmp_path):
    text = "train:\n  head: [linear, 'mlp:8']\n  lr: [1e-3, 0.01]\n  multi_label: off\n"
    path = written(tmp_path, text + "  seed: 007\n  overwrite: true\n")
    with with_recipe("train", train.parser(), ["--recipe", path]) as found:
        assert found == shlex.split(
            "--head linear --head mlp:8 --lr 1e-3,0.01 --multi_label off --seed 007 --overwrite"
        )
    path = written(tmp_path, "extract:\n  input: [a b, c]\n  dedupe: no\n  seed: 3\n")
    assert parse_options(["--recipe", path])[0].inputs == ("a b", "c")
    assert not parse_options(["--recipe", path])[0].upkeep.dedupe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "trian:\n  lr: 1\n",
            r"mine.yaml, line 1: section: unknown value 'trian'; did you mean tr",
        ),
        (
            "train:\n  epoch: 1\n",
            r"line 2: key of train: unknown value 'epoch'; did you mean epochs",
        ),
        (
            "train:\n  epochs: 3\n  optimizer: adm\n",
            r"line 3: --optimizer: .*'adm'; did you mean ad",
        ),
        ("train:\n\n  lr: fast\n", "mine.yaml, line 3: --lr: expected numbers"),
        ("train:\n  epochs: 0\n", "line 2: --epochs must be at least 1, got 0"),
        ("train:\n  epochs: [1, 2]\n", "line 2: --epochs: expected a whole number, got '1,2'"),
        ("train:\n  checkpoint: soon\n", "line 2: .*--checkpoint.*'soon'"),
        ("train:\n  lr: {a: 1}\n", "line 2: train: lr takes a text or number"),
        ("train:\n  lr:\n", "line 2: train: lr needs a value"),
        ("train:\n  lr: 1\n  lr: 2\n", "line 3: 'lr' is given twice in section train"),
        (
            "train:\n  overwrite: 3\n",
            "line 2: overwrite is a switch and takes true or false, got '3",
        ),
        ("train: 3\n", "line 1: section train must be a mapping"),
        ("- 1\n", "line 1: a recipe must be a mapping"),
        ("export:\n  format: keras\n", "has no section 'train'; it has export"),
        ("train:\n  recipe: x\n", "key of train: unknown value 'recipe'"),
        (
            "about:\n  sourse: x\n",
            "line 2: key of about: unknown value 'sourse'; did you mean source",
        ),
        ("train: [", "mine.yaml is not YAML: .*line 1"),
    ],
)
def test_a_mistake_in_a_file_is_one_line_with_its_place(tmp_path, text, message):
    with pytest.raises(UsageError, match=message) as caught:
        typed("--recipe", written(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vgg16-15", "--recipe: unknown value 'vgg16-15'; did you mean vgg16-150"),
        ("none.yaml", "--recipe: cannot read 'none.yaml'"),
        ("mobilenetv2-imagenet", "mobilenetv2-imagenet has no section 'train'; it has adopt"),
    ],
)
def test_an_unknown_recipe_is_one_line(name, message):
    with pytest.raises(UsageError, match=message):
        typed("--recipe", name)


def test_a_mistake_of_the_user_keeps_its_message():
    with pytest.raises(UsageError, match=r"^--lr: expected numbers"):
        typed("--recipe", "vgg16-150", "--lr", "fast")


def test_a_typo_is_one_line_on_the_command_line(tmp_path, command):
    path = written(tmp_path, "extract:\n  modle: VGG16\n")
    done = command("pipelines.extract", "--recipe", path)
    assert_one_line_error(done, 2, "line 2: key of extract", "did you mean model")


def test_the_list_and_one_recipe_are_shown(capsys):
    run([])
    listed = capsys.readouterr().out
    assert all(name in listed for name in NAMES)
    run(["vgg16-180-finetuned"])
    shown = capsys.readouterr().out
    for words in ("0.985", "block4_pool", "--unfreeze 4", "pipelines.recipe vgg16-180-finetuned"):
        assert words in shown
    run(["vgg16-150", "--json"])
    (facts,) = json.loads(capsys.readouterr().out)["recipes"]
    assert facts["sections"]["train"]["lr"] == ["1e-4"]


def test_a_copy_is_a_recipe_and_never_replaces_a_file(tmp_path, capsys):
    target = str(tmp_path / "mine.yaml")
    run(["vgg16-180", "--copy", target])
    assert f"--recipe {target}" in capsys.readouterr().out
    assert read_recipe(target).sections.keys() == read_recipe("vgg16-180").sections.keys()
    with pytest.raises(UsageError, match="--copy: .* exists already and is kept"):
        run(["vgg16-150", "--copy", target])
    with pytest.raises(UsageError, match="--copy: .* must end in .yaml"):
        run(["vgg16-150", "--copy", str(tmp_path / "mine")])
    with pytest.raises(UsageError, match="--copy: name the recipe"):
        run(["--copy", target])


def test_the_page_of_the_docs_is_current(capsys):
    run(["--markdown"])
    page = (ROOT / "docs/recipes.md").read_text()
    assert page == capsys.readouterr().out, "python -m classifier.recipes --markdown writes it"


WORDS = st.text(st.characters(codec="ascii", exclude_categories=["C"]), min_size=1, max_size=8)


def parser():
    result = Parser(prog="x")
    for name in ("one", "two"):
        result.add_argument(f"--{name}")
    result.add_argument("--many", nargs="+", action="extend", default=[])
    result.add_argument("--head", action="append")
    return result


@settings(max_examples=60, deadline=None, derandomize=True)
@given(one=WORDS, heads=st.lists(WORDS, min_size=1, max_size=3), given_flag=st.booleans())
def test_any_text_reaches_the_parser_as_it_is(one, heads, given_flag):
    texts = {"one": (one,), "head": tuple(heads)}
    found = {name: Setting(values, "here") for name, values in texts.items()}
    own = ["--one=mine"] if given_flag else []
    arguments = arguments_of("train", without(found, own), parser())
    parsed = parser().parse_args([*arguments, *own])
    assert parsed.one == ("mine" if given_flag else one)
    assert parsed.head == heads


@settings(max_examples=60, deadline=None, derandomize=True)
@given(text=st.text(st.sampled_from("ab:[]{},-#&*'\" \n\t1|>%@!"), max_size=40))
def test_any_text_is_a_recipe_or_one_line(text):
    try:
        recipe = parse_recipe("mine.yaml", text)
    except UsageError as error:
        assert "\n" not in str(error) and "mine.yaml" in str(error)
    else:
        assert set(recipe.sections) <= set(COMMANDS)
