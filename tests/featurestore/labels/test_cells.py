"""One value, one text: whatever type of cell it came in."""

import datetime
import decimal
import math
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from featurestore.labels.cells import composed, labels_of, same_text, text_of

BLANKS = " \t\r\n\u00a0\u2003\u3000\ufeff\u200b\0"
check = settings(max_examples=100, deadline=None, derandomize=True)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def spellings(text):
    """The same text as each kind of cell that a writer of tables makes of it."""
    data = text.encode()
    yield from (text, data, bytearray(data), memoryview(data), np.array(text, object)[()])
    yield from (pa.scalar(text), pa.scalar(data), pa.scalar(data, pa.large_binary()))
    yield pa.array([text]).dictionary_encode()[0]
    yield pa.array([data]).dictionary_encode().to_pylist()[0]


@check
@given(texts, st.text(BLANKS, max_size=3), st.text(BLANKS, max_size=3))
@example("0001", "", " ").via("leading zeros")
@example("NULL", "\ufeff", "").via("a class of this name")
@example("caf\u00e9", "", "")
def test_text_is_one_text_in_every_kind_of_cell(text, before, after):
    for form in ("NFC", "NFD"):
        for cell in spellings(before + unicodedata.normalize(form, text) + after):
            assert same_text(cell) == same_text(text)
            assert labels_of(cell) == ((same_text(text),) if same_text(text) else ())
            assert labels_of([cell, text]) == labels_of(text)


@check
@given(texts)
def test_the_function_is_idempotent_and_keeps_distinct_texts_apart(text):
    assert text_of(text_of(text)) == text_of(text)
    assert same_text(same_text(text)) == same_text(text)
    assert composed(composed(text)) == composed(text)
    assert text_of(text) in text
    longer = text_of(text) + "x"
    assert same_text(longer) != same_text(text)


@check
@given(st.integers(-(2**53), 2**53))
def test_a_whole_number_is_one_text_in_every_kind_of_cell(number):
    column = pa.array([number, None], pa.int64())
    cells = [number, float(number), np.int64(number), np.float64(number), decimal.Decimal(number)]
    cells += [str(number), f"{number}.0", f"{number}.00", column[0], column.cast(pa.float64())[0]]
    assert {same_text(cell) for cell in cells} == {str(number)}
    assert {labels_of(cell) for cell in cells} == {(str(number),)}
    names = ["a", "b", "c"]
    known = {labels_of(cell, names) for cell in cells if not isinstance(cell, str)}
    if number < 0:
        assert () in known
    else:
        assert ((names[number],) if number < 3 else (str(number),)) in known


@check
@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_a_float_is_its_shortest_text(number):
    narrow = np.float32(number)
    assert float(text_of(narrow)) == float(str(narrow))
    assert same_text(text_of(number)) == text_of(number)


@pytest.mark.parametrize(
    "cell",
    [
        *(None, "", " \u3000\ufeff", b"", math.nan, np.float32("nan"), decimal.Decimal("NaN")),
        *(np.datetime64("NaT"), pa.scalar(None), pa.scalar(None, pa.binary()), [], [None, ""]),
        *(np.array([]), np.array([np.nan]), pa.scalar([], pa.list_(pa.string()))),
    ],
)
def test_a_cell_that_says_nothing_gives_no_label(cell):
    assert labels_of(cell) == ()


@pytest.mark.parametrize("text", ["NA", "NULL", "nan", "None", "null", "-", "0", "0001", "01.0"])
def test_text_that_looks_like_nothing_is_a_label(text):
    assert labels_of(text) == labels_of(text.encode()) == (text,)


@pytest.mark.parametrize(
    "cell, text",
    [
        (True, "True"),
        (np.bool_(False), "False"),
        (decimal.Decimal("1.50"), "1.5"),
        (decimal.Decimal("2.00"), "2"),
        (datetime.date(2024, 1, 2), "2024-01-02"),
        (datetime.datetime(2024, 1, 2), "2024-01-02"),
        (np.datetime64("2024-01-02T00:00:00.000000000"), "2024-01-02"),
        (datetime.datetime(2024, 1, 2, 3, 4), "2024-01-02 03:04:00"),
        (b"caf\xe9", "caf\\xe9"),
        (b"caf\xe8", "caf\\xe8"),
        (-0.0, "0"),
        (math.inf, "inf"),
    ],
)
def test_kinds_of_cells(cell, text):
    assert text_of(cell) == text
    assert labels_of(cell) == (text,)


def test_lists_give_several_labels_each_once():
    assert labels_of(["b", b"a ", "b", None]) == ("b", "a")
    assert labels_of(np.array([1.0, 2.0])) == labels_of(pa.scalar([1, 2])) == ("1", "2")
    assert labels_of([[0], [1.0]], ["cat", "dog"]) == ("cat", "dog")
