"""The URL of an etcd store says where its members are, and nothing secret."""

from __future__ import annotations

import pytest

from meshagent.errors import UsageProblem
from meshagent.wire.etcd_url import Address, parse_url


@pytest.mark.parametrize(
    ("url", "members", "tls"),
    [
        ("etcd://127.0.0.1:2379", ("127.0.0.1:2379",), False),
        ("etcd://h1,h2:99/", ("h1:2379", "h2:99"), False),
        ("etcd://h1,h1:2379", ("h1:2379",), False),
        ("etcd://[::1]:2379,[::2]?tls=true", ("[::1]:2379", "[::2]:2379"), True),
        ("etcd://h?tls=false", ("h:2379",), False),
    ],
)
def test_a_url_names_members_in_their_order(url: str, members: tuple[str, ...], tls: bool) -> None:
    assert parse_url(url) == Address(members, tls)


def test_the_configuration_can_ask_for_tls_too() -> None:
    assert parse_url("etcd://h?tls=false", tls=True).tls
    assert parse_url("etcd://h", tls=True).tls


@pytest.mark.parametrize(
    "url",
    [
        "consul://h:1",
        "etcd://",
        "etcd://h,",
        "etcd://h:0",
        "etcd://h:65536",
        "etcd://h:x",
        "etcd://h/path",
        "etcd://h#part",
        "etcd://h?tls=yes",
        "etcd://h?tls=true&tls=true",
        "etcd://h?dc=eu",
        "etcd://a b:1",
        "etcd://::1:2379",
    ],
)
def test_what_is_no_url_of_etcd_is_refused_with_the_form_of_one(url: str) -> None:
    with pytest.raises(UsageProblem) as refusal:
        parse_url(url)
    assert "etcd://host:port" in refusal.value.next_step


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageProblem) as refusal:
        parse_url("etcd://ann:secret@h:2379")
    assert "secret" not in f"{refusal.value} {refusal.value.next_step}"
    assert "store_password_file" in refusal.value.next_step
