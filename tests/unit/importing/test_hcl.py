"""Consul's HCL, which is version 1 of the language."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshagent.importing.hcl import read_hcl


def data(text):
    reading = read_hcl(text, "f.hcl")
    assert not reading.problems, reading.problems
    return reading.trees[0].data


def test_a_block_may_stand_inside_of_a_lists_object():
    text = 'Routes = [\n  { Match { HTTP { PathExact = "/x" } } }, # why\n  { Destination = { Service = "a" } }\n]'
    assert data(text) == {"Routes": [{"Match": {"HTTP": {"PathExact": "/x"}}}, {"Destination": {"Service": "a"}}]}


def test_a_block_that_comes_again_is_a_list():
    assert data('sources { name = "a" }\nsources { name = "b" }') == {"sources": [{"name": "a"}, {"name": "b"}]}


def test_values_are_what_they_say():
    text = 'a = -5\nb = 1.5\nc = true\nd = null\ne = "x\\"\\n\\u00e9 ${y}"\nf = 0x10\n"g h" = []\n// c\n/* c\n c */'
    assert data(text) == {"a": -5, "b": 1.5, "c": True, "d": None, "e": 'x"\n\u00e9 ${y}', "f": 16, "g h": []}


def test_long_texts_end_at_their_mark_and_lose_their_indentation_if_asked():
    assert data("a = <<X\n  b\nX\nc = <<-X\n    d\n      e\n  X\n") == {"a": "  b\n", "c": "d\n  e\n"}


def test_every_value_has_its_line():
    lines = read_hcl("a = [\n  {\n    b = 1\n  }\n]\nc { d = 2 }", "f.hcl").trees[0].lines
    assert (lines["a", 0], lines["a", 0, "b"], lines["c", "d"]) == (2, 3, 6)


@pytest.mark.parametrize(
    ("text", "line"),
    [("a = ", 1), ("a {\n b = 1\n", 3), ("a = 1\na = 2", 2), ("a = [1", 1), ('a = "x', 1), ("\n}", 2), ("a = b", 1),
     ("x = <<E\nno end", 1), ('a = "\\ud800"', 1), ("[1]", 1), ("a { } = 1", 1)],
)  # fmt: skip
def test_what_is_not_hcl_is_told_with_its_line(text, line):
    problems = read_hcl(text, "f.hcl").problems
    assert [problem.line for problem in problems] == [line]


def test_deep_nesting_is_refused_and_not_a_crash():
    assert "nested" in read_hcl("a = " + "[" * 5000, "f.hcl").problems[0].message
    assert "nested" in read_hcl("a {" * 5000, "f.hcl").problems[0].message
    assert "nested" in read_hcl('a "x" ' + '"y" ' * 5000 + "{}", "f.hcl").problems[0].message


@given(st.text(alphabet=' \n\t={}[]",:#/*<-E\\a1.0"', max_size=40))
def test_no_text_is_a_crash(text):
    read_hcl(text, "f.hcl")
