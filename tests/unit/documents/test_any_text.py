"""Whatever the bytes, the answer is documents and problems: nothing is raised, and every problem can be shown."""

import json

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meshagent.documents import read
from meshagent.documents.decode import decode_all, decode_documents, decode_one
from meshagent.documents.read import text_of
from meshagent.errors import Problem
from meshagent.model.kinds import KINDS
from meshagent.model.service import ServiceDefinition

VOCABULARY = """
    kind name sources permissions http methods headers exact regex path_regex expires_at action checks ttl interval port
    intention service mesh * allow deny web GET [[a] ((( a{99999999999} 5s 999999999999999999h 1e999 .nan 0x1 0o7 20270101
    2027-01-01 yes true null ~ -1 # : - &a *a !!int !x ? | >- << %YAML @ ` , \\ud83d \\U00110000 \\x
"""
WORDS = st.sampled_from(VOCABULARY.split())
STRANGE = st.sampled_from("\U0001f600\x85\ufeff\u2028\ud800\x00\t\r\n")
MARKS = st.sampled_from([": ", "\n", "\n  ", "\n- ", ", ", "[", "]", "{", "}", "---\n", "|\n", '"', "'", "\r\n", " "])
TEXTS = st.lists(WORDS | MARKS | MARKS | STRANGE, max_size=40).map("".join)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS | STRANGE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


def check(text):
    for decoded in (
        decode_documents(text, "f", KINDS),
        decode_all(text, "f", ServiceDefinition),
        decode_one(text, "f", ServiceDefinition),
    ):
        last = text.count("\n") + 1
        for problem in decoded.problems:
            shown = str(problem)
            assert shown.startswith("f:" if problem.line else "f: ")
            assert 0 <= problem.line <= last + text.count("\r") + text.count("\x85") + text.count("\u2028")
            assert problem.message
            assert "Value error" not in shown
            assert "function-" not in shown
            shown.encode()


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
@example(b"\xff\xfek\x00i\x00")
@example(b"a: \xed\xa0\x80")
def test_any_bytes_are_documents_or_problems(raw):
    text = text_of(raw, "f")
    if isinstance(text, Problem):
        assert "UTF-8" in text.message
    else:
        check(text)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
@example("a: '\ud800'")
@example("kind: intention\nname: a\nsources: [{name: b, permissions: [{action: deny, http: {path_regex: '[[a]'}}]}]")
def test_any_text_of_yaml_s_own_pieces_is_documents_or_problems(text):
    check(text)


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_python_s_own_parser_raises_nothing_either(text):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read, "_LOADER", yaml.SafeLoader)
        check(text)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["intention", "service", "mesh"]), st.dictionaries(WORDS, PLAIN, max_size=5))
def test_any_data_in_a_document_is_a_document_or_problems(kind, fields):
    check(json.dumps({**fields, "kind": kind}, ensure_ascii=False))


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(["name", "action", "permissions", "expires_at", "reason", "shadow"]), PLAIN))
def test_any_data_in_a_source_is_a_document_or_problems(source):
    check(json.dumps({"kind": "intention", "name": "a", "sources": [source]}, ensure_ascii=False))
