"""YAML text -> plain data with lines, within limits, with the C parser and with Python's own."""

import pytest
import yaml

from meshagent.documents import read
from meshagent.documents.compose import MAX_BYTES, MAX_DEPTH, MAX_NODES, field_text
from meshagent.documents.read import read_yaml, text_of
from meshagent.errors import Problem


@pytest.fixture(params=["CSafeLoader", "SafeLoader"])
def both_parsers(request, monkeypatch):
    monkeypatch.setattr(read, "_LOADER", getattr(yaml, request.param))


def data(text):
    reading = read_yaml(text, "f.yaml")
    assert reading.problems == ()
    return [tree.data for tree in reading.trees]


def problems(text):
    return [str(problem) for problem in read_yaml(text, "f.yaml").problems]


@pytest.mark.usefixtures("both_parsers")
class TestWithBothParsers:
    def test_documents_are_read_in_order_and_empty_ones_are_skipped(self):
        assert data("---\n# nothing\n---\na: 1\n---\n~\n---\n---\nb: [x, {c: null}]\n...\n") == [
            {"a": 1},
            {"b": ["x", {"c": None}]},
        ]
        assert data("") == data("# only this") == data("---\n---\n") == []

    def test_keys_and_values_that_yaml_1_1_makes_booleans_of_stay_text(self):
        assert data("on: [on, no, yes]\nno: off\n1: 2\ntrue: x\nnull: y\n") == [
            {"on": ["on", "no", "yes"], "no": "off", "1": 2, "true": "x", "null": "y"}
        ]

    def test_quotes_and_block_text_make_text(self):
        assert data("a: '1'\nb: \"true\"\nc: |\n  1\nd: ! 5\n") == [{"a": "1", "b": "true", "c": "1\n", "d": "5"}]

    def test_standard_tags_are_taken_when_they_are_true(self):
        assert data("a: !!str 5\nb: !!int '5'\nc: !!map {d: !!null ''}\ne: !!seq [!!float 1]\n") == [
            {"a": "5", "b": 5, "c": {"d": None}, "e": [1]}
        ]
        assert problems("a: !!int five\n") == ["f.yaml:1: a: is not what its tag !!int says"]

    @pytest.mark.parametrize("value", ["!secret x", "!!python/object:os.system {}", "!!binary aGk=", "!x [1]"])
    def test_other_tags_are_refused(self, value):
        (problem,) = problems(f"x: 1\na: {value}\n")
        assert problem.startswith("f.yaml:2: a: has the tag ")
        assert problem.endswith("which is not taken: documents are plain data")

    def test_a_key_given_twice_is_a_problem_with_both_lines(self):
        text = "a:\n  b: 1\n  c: 2\n  b: 3\nd: 1\n'd': 2\n"
        assert problems(text) == [
            "f.yaml:4: a.b: is given twice (first in line 2)",
            "f.yaml:6: d: is given twice (first in line 5)",
        ]
        assert read_yaml(text, "f.yaml").broken == {0}

    def test_an_error_of_syntax_leaves_the_documents_before_it_readable(self):
        reading = read_yaml("a: 1\n---\nb: [1\n", "f.yaml")
        assert [tree.data for tree in reading.trees] == [{"a": 1}]
        (problem,) = reading.problems
        assert problem.line in {3, 4}
        assert problem.message.startswith("is not YAML: ")

    def test_a_tab_as_indentation_is_named(self):
        assert problems("a:\n\tb: 1\n") == ["f.yaml:2: is indented with a tab: YAML takes spaces only"]

    @pytest.mark.parametrize("text", ["- a\n", "just text\n", "5\n"])
    def test_a_document_that_is_no_mapping_is_refused_and_the_next_is_read(self, text):
        reading = read_yaml(f"{text}---\na: 1\n", "f.yaml")
        assert [str(problem) for problem in reading.problems] == [
            "f.yaml:1: a document must be a mapping of fields (name: value)"
        ]
        assert [tree.data for tree in reading.trees] == [{"a": 1}]

    def test_aliases_stand_for_what_their_anchor_holds(self):
        assert data("a: &x {b: [1]}\nc: *x\n&k d: *k\n*k : 2\n".replace("*k : 2\n", "")) == [
            {"a": {"b": [1]}, "c": {"b": [1]}, "d": "d"}
        ]

    def test_an_anchor_ends_with_its_document(self):
        assert problems("a: &x 1\n---\nb: *x\n") == [
            "f.yaml:3: refers to the anchor 'x', which is not defined above it"
        ]

    def test_an_alias_inside_its_own_anchor_is_refused(self):
        assert problems("a: &x [1, *x]\n") == ["f.yaml:1: refers to the anchor 'x' from inside of it"]

    def test_ten_billion_laughs_are_refused_at_once(self):
        lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
        lines += [
            f"{now}: &{now} [{', '.join([f'*{before}'] * 10)}]"
            for before, now in zip("abcdefghi", "bcdefghij", strict=True)
        ]
        assert problems("\n".join(lines)) == [
            f"f.yaml:6: holds more than {MAX_NODES:,} values, aliases expanded: split the file"
        ]

    def test_a_long_text_repeated_by_aliases_is_refused(self):
        (problem,) = problems(f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 60)}]\n")
        assert problem == "f.yaml:2: holds more than 4 MiB of text, aliases expanded"

    def test_depth_is_bounded_also_through_aliases(self):
        deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
        assert problems(f"a: {deep}\n") == []
        assert problems(f"a: [{deep}]\n") == [f"f.yaml:1: is nested more than {MAX_DEPTH} levels deep"]
        chain = "k0: &k0 x\n" + "".join(f"k{i}: &k{i} [*k{i - 1}]\n" for i in range(1, 100))
        assert problems(chain) == [f"f.yaml:{MAX_DEPTH + 1}: is nested more than {MAX_DEPTH} levels deep"]

    @pytest.mark.parametrize("text", ["? [a]\n: 1\n", "{a: 1}: 2\n", "x: &x [1]\n*x : 2\n"])
    def test_a_key_that_is_not_text_is_refused(self, text):
        assert problems(text)[-1].endswith(": has a key that is not text")

    def test_merge_keys_are_refused_by_name(self):
        (problem,) = problems("a: &a {x: 1}\nb:\n  <<: *a\n")
        assert problem == "f.yaml:3: b: has a merge key (<<), which is not taken: write the fields out"

    def test_a_directive_out_of_range_is_an_error_of_syntax(self):
        (problem,) = problems(f"%YAML 1.{'9' * 5000}\n---\na: 1\n")
        assert problem.startswith("f.yaml:1: is not YAML: ")


def test_json_is_yaml_with_tabs_and_escapes_beyond_the_first_plane():
    assert data('{\n\t"kind":\t"x",\n\t"a": "\\ud83d\\ude00 \\\\ud83d\\/ \\u00e9"\n}') == [
        {"kind": "x", "a": "\U0001f600 \\ud83d/ \u00e9"}
    ]


def test_half_a_surrogate_pair_is_refused(monkeypatch):
    monkeypatch.setattr(read, "_LOADER", yaml.SafeLoader)  # libyaml refuses it by itself
    assert problems('a: "\\ud83d"\n') == ["f.yaml:1: a: holds half of a surrogate pair, which is no character"]
    monkeypatch.setattr(read, "_LOADER", yaml.CSafeLoader)
    assert problems('a: "\\ud83d"\n')[0].startswith("f.yaml:1: is not YAML: ")


def test_control_characters_are_named_with_their_line():
    assert problems("a: 1\nb: \x00\n") == ["f.yaml:2: holds a NUL byte: this is not a text file"]
    assert problems("a: \x07\n") == ["f.yaml:1: holds the character U+0007, which YAML does not allow"]


def test_every_value_has_a_line_and_missing_ones_that_of_what_is_around_them():
    (tree,) = read_yaml(
        "---\n# note\nname: a\nsources:\n- name: web\n  meta: {x: 1,\n    y: 2}\n-\n  name: b\n", "f"
    ).trees
    assert tree.line_of(()) == 3
    assert tree.line_of(("sources",)) == 4
    assert tree.line_of(("sources", 0)) == tree.line_of(("sources", 0, "name")) == 5
    assert (tree.line_of(("sources", 0, "meta", "x")), tree.line_of(("sources", 0, "meta", "y"))) == (6, 7)
    assert tree.line_of(("sources", 1, "action", "deeper")) == 9
    assert tree.line_of(("nothing",)) == 3


def test_bytes_must_be_utf_8_and_may_have_a_byte_order_mark():
    assert text_of(b"\xef\xbb\xbfa: \xc3\xa9", "f") == "a: \u00e9"
    assert text_of(b"a: 1\nb: \xff", "f") == Problem(
        "f", 2, "", "is not UTF-8 text: save it as UTF-8 without binary data"
    )
    assert data("\ufeffa: 1") == [{"a": 1}]


def test_a_file_beyond_4_mib_is_not_parsed():
    wanted = "is larger than 4 MiB: split it into several files"
    assert text_of(b"#" * (MAX_BYTES + 1), "f") == Problem("f", 0, "", wanted)
    assert read_yaml("#" * (MAX_BYTES + 1), "f").problems == (Problem("f", 0, "", wanted),)
    assert read_yaml("#" * MAX_BYTES, "f").problems == ()


def test_a_field_is_written_as_people_would_and_odd_keys_cannot_play_tricks():
    assert field_text(("sources", 1, "http", "methods", 0)) == "sources[1].http.methods[0]"
    assert field_text(("meta", "a b", "x\x1b[31m", "")) == "meta['a b']['x\\x1b[31m']['']"
    assert len(field_text(("k" * 10_000,))) < 100
