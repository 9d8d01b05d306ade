"""Label files of complete classifiers: every output gets its own name, or the file is refused."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier.adopting.labels import LabelFile, classes_of, read_labels
from featurestore.errors import UsageError


def written(folder, name, text):
    (folder / name).write_text(text, encoding="utf-8")
    return read_labels(str(folder / name), {})


NUMBERED = "index,id,name\n1,n2,dog\n0,n1,cat\n"


@pytest.mark.parametrize(
    "name, text, ids",
    [
        ("ImageNetLabels.txt", "cat\ndog\n", {}),
        ("windows.txt", "\ufeffcat\r\n  dog\r\n\r\n", {}),
        ("list.json", '["cat", "dog"]', {}),
        ("imagenet_class_index.json", '{"1": ["n2", "dog"], "0": ["n1", "cat"]}', "n1 n2"),
        ("class_indices.json", '{"dog": 1, "cat": 0}', {}),
        ("from_one.json", '{"1": "cat", "2": "dog"}', {}),
        ("numbered.csv", NUMBERED, "n1 n2"),
        ("headless.csv", "0,cat\n1,dog\n", {}),
        ("names.csv", "name\ncat\ndog\n", {}),
        ("bare.csv", "cat\ndog\n", {}),
        ("tabs.tsv", "0\tcat\n1\tdog\n", {}),
        ("named.csv", "label,wnid\ncat,n1\ndog,n2\n", "n1 n2"),
    ],
)
def test_every_kind_of_label_file_gives_names_in_order(tmp_path, name, text, ids):
    found = written(tmp_path, name, text)
    assert found.names == ("cat", "dog")
    assert found.ids == (dict(zip(ids.split(), range(2), strict=True)) if ids else {})


@pytest.mark.parametrize(
    "name, text, match",
    [
        ("gap.txt", "cat\n\ndog\n", r"no name for class 1 .*delete the empty line"),
        ("gap.json", '{"0": "cat", "2": "dog"}', "without a gap"),
        ("twice.csv", "0,cat\n0,dog\n", "without a gap or a repeat"),
        ("twice.json", '{"0": ["n1", "cat"], "1": ["n1", "dog"]}', "same id"),
        ("deep.json", '[["a", "b", "c"]]', "names a class"),
        ("number.json", "[1, 2]", "names a class 1"),
        ("word.json", '"cat"', "neither a list nor a mapping"),
        ("broken.json", "{", "cannot read .*JSON"),
        ("ragged.csv", "0,cat\n1\n", "different numbers of cells"),
        ("empty.csv", "", "or there are none"),
    ],
)
def test_a_label_file_that_would_shift_names_is_refused(tmp_path, name, text, match):
    with pytest.raises(UsageError, match=match) as caught:
        written(tmp_path, name, text)
    assert "\n" not in str(caught.value) and "--labels" in str(caught.value)


def test_numbers_alone_are_names(tmp_path):
    assert written(tmp_path, "digits.csv", "0\n1\n2\n").names == ("0", "1", "2")
    assert written(tmp_path, "digits.txt", "0\n1\n2\n").names == ("0", "1", "2")
    assert written(tmp_path, "both.csv", "0,10\n1,11\n").names == ("10", "11")


def test_a_missing_label_file_is_one_line(tmp_path):
    with pytest.raises(UsageError, match="--labels: cannot read .*nowhere.txt"):
        read_labels(str(tmp_path / "nowhere.txt"), {})


def labels(count, ids=False, first="c"):
    names = tuple(f"{first}{i}" for i in range(count))
    return LabelFile("labels.txt", names, {f"n{i}": i for i in range(count)} if ids else {})


@pytest.mark.parametrize(
    "names, outputs, offset, folders",
    [
        # (folder, the class it means)
        (1001, 1001, 1, {"0": "c1", "0999": None, "999": "c1000", "007": "c8"}),
        (1001, 1001, 0, {"0": "c0", "1000": "c1000", "0007": "c7"}),
        (1000, 1001, 1, {"0": "c0", "999": "c999", "n5": "c5"}),
        (1000, 1000, None, {"0": None, "n5": "c5"}),
        (1001, 1000, -1, {"1": "c1", "1000": "c1000", "0": None, "n5": "c5", "n0": None}),
        (10, 10, 0, {"3": "c3", "03": None, "10": None}),
    ],
)
def test_folders_named_by_number_or_id_mean_their_class(names, outputs, offset, folders):
    found = classes_of(labels(names, ids=names != 1001 or offset == -1), outputs, offset)
    assert len(found.names) == outputs == len(set(found.names))
    assert {name: found.aliases.get(name) for name in folders} == folders


def test_a_thousand_names_for_1001_outputs_explain_the_background_class():
    with pytest.raises(UsageError, match=r"'background' before .*add --label_offset 1") as caught:
        classes_of(labels(1000), 1001, None)
    assert "\n" not in str(caught.value)
    assert classes_of(labels(1000), 1001, 1).names[:2] == ("background", "c0")
    with pytest.raises(UsageError, match=r"'c0' is that class, add --label_offset -1"):
        classes_of(labels(1001), 1000, None)
    assert classes_of(labels(1001), 1000, -1).names[0] == "c1"
    with pytest.raises(UsageError, match="12 names, but the model has 10 outputs; give the label"):
        classes_of(labels(12), 10, 1)


def test_repeated_names_are_numbered_and_listed():
    found = classes_of(LabelFile("x", ("crane", "bus", "crane", "crane (1)"), {}), 4, None)
    assert found.names == ("crane (2)", "bus", "crane (3)", "crane (1)")
    assert found.notes == (
        "names that stand for several classes are numbered: 'crane (2)', 'crane (3)'",
    )


def test_numbers_that_are_names_are_not_taken_for_others():
    digits = LabelFile("x", tuple("0123456789"), {})
    assert classes_of(digits, 10, 0).aliases == {}
    with pytest.raises(UsageError, match="'0' is the name of a class .*would also stand for '1'"):
        classes_of(digits, 10, 1)


def test_one_output_stands_for_two_classes():
    assert classes_of(labels(2), 1, None).names == ("c0", "c1")


names = st.lists(st.sampled_from(["a", "b", "a (1)", "a (2)", "b (1)"]), min_size=2, max_size=9)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(names)
def test_numbered_names_differ_and_keep_their_stem(found):
    unique = classes_of(LabelFile("x", tuple(found), {}), len(found), None).names
    assert len(set(unique)) == len(found)
    assert all(new.startswith(old) for new, old in zip(unique, found, strict=True))
    kept = [(new, old) for new, old in zip(unique, found, strict=True) if found.count(old) == 1]
    assert all(new == old for new, old in kept)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.text("abé, \"'0", min_size=1).map(str.strip).filter(bool), min_size=1))
def test_json_and_text_agree(tmp_path_factory, found):
    folder = tmp_path_factory.mktemp("labels")
    listed = written(folder, "x.json", json.dumps(found))
    assert listed.names == written(folder, "x.txt", "\n".join(found)).names == tuple(found)
