"""The join line: read back as it was written, refused when anything is missing, and never repeated in an error."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshagent.model.joining import PREFIX, JoinLine, check_place, parse_join_line

LINE = JoinLine(("10.0.0.5:8443", "[2001:db8::1]:8443"), f"sha256:{'ab' * 32}", "T" * 43, "mesh.internal")


def made(**changes: object) -> str:
    value = {"a": ["10.0.0.5:8443"], "d": "mesh.internal", "f": LINE.fingerprint, "t": LINE.token, **changes}
    packed = json.dumps({name: each for name, each in value.items() if each is not None}).encode()
    return PREFIX + base64.urlsafe_b64encode(packed).decode().rstrip("=")


def test_a_line_is_one_word_and_is_read_back():
    assert len(LINE.text().split()) == 1
    assert parse_join_line(f"  {LINE.text()}\n") == LINE


def test_the_token_is_not_in_its_repr():
    assert LINE.token not in repr(LINE)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mesh1.",
        "mesh2." + LINE.text().removeprefix(PREFIX),
        LINE.text()[:-9],
        LINE.text() + " x",
        made(a=[]),
        made(a="10.0.0.5:8443"),
        made(a=["10.0.0.5"]),
        made(a=["10.0.0.5:99999"]),
        made(a=[7]),
        made(d="Mesh Internal"),
        made(f="sha256:ab"),
        made(f=None),
        made(t="short"),
        made(t="has spaces in it and is long enough"),
        made(extra="x"),
        PREFIX + base64.urlsafe_b64encode(b"[" * 1000).decode().rstrip("="),
        PREFIX + "A" * 5000,
    ],
)
def test_what_is_not_whole_is_refused_and_not_repeated(text):
    with pytest.raises(ValueError, match="is |must be ") as told:
        parse_join_line(text)
    assert LINE.token not in str(told.value) and len(str(told.value)) < 200


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text):
    with pytest.raises(ValueError, match="is |must be "):
        parse_join_line(PREFIX + text)


@pytest.mark.parametrize("text", ["10.0.0.5:8443", "authority.mesh.internal:1", "[::1]:65535"])
def test_a_place_is_a_host_and_a_port(text):
    assert check_place(text) == text
