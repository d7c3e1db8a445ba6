"""What unquoted text means."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshagent.documents.scalars import resolve


@pytest.mark.parametrize("text", ["on", "off", "yes", "no", "Y", "n", "ON", "<<", "="])
def test_the_booleans_and_signs_of_yaml_1_1_are_text(text):
    assert resolve(text) == text


@pytest.mark.parametrize("text", ["2027-01-01", "2027-01-01T00:00:00Z", "1:30", "12:30:45", "1_000", "500ms", "1.2.3"])
def test_times_and_their_like_are_text(text):
    assert resolve(text) == text


@pytest.mark.parametrize(("text", "value"), [("", None), ("~", None), ("null", None), ("true", True), ("FALSE", False)])
def test_null_and_booleans_are_those_of_yaml_1_2(text, value):
    assert resolve(text) is value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("-7", -7),
        ("+7", 7),
        ("0o660", 0o660),
        ("0x1F", 31),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1.", 1.0),
        ("1e3", 1000.0),
    ],
)
def test_numbers_are_those_of_yaml_1_2(text, value):
    assert resolve(text) == value
    assert type(resolve(text)) is type(value)


@pytest.mark.parametrize(
    "text", ["0660", "-07", "00", "1" * 19, "0x" + "f" * 30, "1e999", ".inf", "-.INF", ".nan", "-", "+", ".", "1e"]
)
def test_what_readers_disagree_on_is_text(text):
    assert resolve(text) == text


@given(st.text())
def test_every_value_is_one_that_json_has_and_text_is_itself(text):
    value = resolve(text)
    assert json.loads(json.dumps(value, allow_nan=False)) == value
    if isinstance(value, str):
        assert value == text


@given(st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.floats(allow_nan=False, allow_infinity=False))
def test_what_json_writes_is_read_as_the_same_value(value):
    assert resolve(json.dumps(value)) == value
