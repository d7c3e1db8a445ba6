"""Who may look: links that are good once, sessions, and names of this machine."""

from __future__ import annotations

import itertools

import pytest

from meshagent.ui.entry import Door, is_near


def door() -> Door:
    numbers = itertools.count()
    return Door(lambda: f"secret-{next(numbers)}")


def test_a_link_opens_one_session_and_is_another_one_then():
    it = door()
    token = it.token
    session = it.enter(token)
    assert session is not None
    assert it.knows(f"Bearer {session}")
    assert it.enter(token) is None
    assert it.token not in (token, session)
    assert it.enter(it.token) is not None


@pytest.mark.parametrize("wrong", ["", "Bearer ", "Bearer x", "Basic {}", "{}", "bearer {}", "Bearer {} "])
def test_nothing_but_a_session_is_known(wrong):
    it = door()
    session = it.enter(it.token)
    assert not it.knows(wrong.format(session))


def test_neither_the_token_nor_what_is_no_text_of_ours_opens_anything():
    it = door()
    assert not it.knows(f"Bearer {it.token}")
    assert it.enter("\udcff".encode("utf-8", "replace").decode()) is None
    assert it.enter("") is None


def test_only_so_many_sessions_are_kept():
    it = door()
    first = it.enter(it.token)
    for _ in range(32):
        it.enter(it.token)
    assert not it.knows(f"Bearer {first}")


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost", "localhost:1", "[::1]:99", "127.5.5.5"])
def test_names_of_this_machine(host):
    assert is_near(host)


@pytest.mark.parametrize(
    "host", ["", "evil.example", "localhost.evil.example:8080", "10.0.0.1:8080", "[::", "127.0.0.1.nip.io", "0.0.0.0"]
)
def test_other_names_are_not_answered(host):
    assert not is_near(host)
