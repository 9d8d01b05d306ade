"""Each flag of an extraction fills the field that its row in the table names."""

from dataclasses import fields

import pytest

from featurestore.errors import UsageError
from pipelines.extract import build_parser, parse_options
from pipelines.flags import FLAGS
from pipelines.options import ExtractOptions


def test_no_flags_are_the_defaults_of_the_options():
    options, as_json = parse_options([])
    plain = ExtractOptions(pixels=options.pixels)
    assert options == plain and not as_json


@pytest.mark.parametrize("name", sorted(FLAGS))
def test_every_flag_names_a_field_and_has_a_place_in_the_help(name):
    flag = FLAGS[name]
    assert (flag.field or name) in {one.name for one in fields(flag.options)}
    assert f"--{name}" in build_parser().format_help()


def test_label_column_is_of_the_table_if_there_is_one_and_else_of_the_input():
    of_input, _ = parse_options(["--label_column", "breed"])
    assert of_input.reading.asked.label == "breed" and not of_input.labels.label_column
    of_table, _ = parse_options(["--labels", "t.csv", "--label_column", "breed"])
    assert of_table.labels.label_column == "breed" and not of_table.reading.asked.label


@pytest.mark.parametrize("flag", ["dtype", "engine", "fit", "layout", "pooling", "preprocess"])
def test_an_unknown_choice_is_refused_with_the_choices(flag):
    with pytest.raises(UsageError, match=f"--{flag}: unknown value 'foo'.*choose from"):
        parse_options([f"--{flag}", "foo"])
