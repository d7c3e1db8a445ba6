"""The one file that leads a resolver to the agent: written whole, never over another's, and nothing else is touched."""

from __future__ import annotations

import os

import pytest

from meshagent.errors import NotFound, UsageProblem
from meshagent.host.resolver import (
    FILES,
    RESOLVERS,
    looked_up,
    refuse_other_servers,
    remove,
    run_command,
    running,
    text_for,
    write,
    written,
)

HERE = "127.0.0.1:15053"
ZONES = ("mesh", "248.in-addr.arpa")
OURS = "Global: ~248.in-addr.arpa\n        ~mesh\nLink 2 (eth0):\n"


def resolvectl(servers, domains="Global:\nLink 2 (eth0): corp.example\n"):
    """As systemd 252 says it: servers of links stand among the global ones too."""
    answers = {("resolvectl", "dns"): servers, ("resolvectl", "domain"): domains}
    return lambda words: answers[tuple(words)]


def test_resolved_is_told_of_the_zones_alone():
    lines = text_for("resolved", HERE, ZONES).splitlines()
    assert lines[1:] == ["[Resolve]", "DNS=127.0.0.1:15053", "Domains=~mesh ~248.in-addr.arpa"]
    assert "DNS=[::1]:15053" in text_for("resolved", "[::1]:15053", ZONES)


def test_dnsmasq_is_told_of_the_zones_alone():
    lines = text_for("dnsmasq", HERE, ZONES).splitlines()
    assert lines[1:] == [
        "server=/mesh/127.0.0.1#15053",
        "server=/248.in-addr.arpa/127.0.0.1#15053",
        "rebind-domain-ok=/mesh/",
    ]
    assert "server=/mesh/::1#15053" in text_for("dnsmasq", "[::1]:15053", ZONES)


@pytest.mark.parametrize("resolver", RESOLVERS)
def test_the_file_is_written_again_and_removed_and_leaves_nothing(tmp_path, resolver):
    first = write(tmp_path, resolver, text_for(resolver, HERE, ZONES))
    again = write(tmp_path, resolver, text := text_for(resolver, "127.0.0.1:53", ZONES))
    assert first == again == tmp_path / FILES[resolver]
    assert written(tmp_path) == {resolver: text}
    assert first.stat().st_mode & 0o777 == 0o644 and os.listdir(first.parent) == [first.name]
    assert remove(tmp_path) == [(resolver, first)]
    assert os.listdir(first.parent) == [] and remove(tmp_path) == []


@pytest.mark.parametrize("resolver", RESOLVERS)
def test_a_file_or_link_of_somebody_else_is_neither_overwritten_nor_removed(tmp_path, resolver):
    path = tmp_path / FILES[resolver]
    path.parent.mkdir(parents=True)
    path.write_text("server=192.0.2.53\n")
    for put in (lambda: None, lambda: _linked(path, tmp_path / "elsewhere")):
        put()
        with pytest.raises(UsageProblem, match="not from this command"):
            write(tmp_path, resolver, text_for(resolver, HERE, ZONES))
        assert path.read_text() == "server=192.0.2.53\n"
        assert remove(tmp_path) == [] and path.exists()
        assert os.listdir(path.parent) == [path.name]


def _linked(path, target):
    path.rename(target)
    path.symlink_to(target)


def test_a_file_that_cannot_be_written_leaves_nothing_half(tmp_path):
    (tmp_path / "etc").write_text("no directory")
    with pytest.raises(UsageProblem, match="cannot be"):
        write(tmp_path, "dnsmasq", "x")


@pytest.mark.parametrize(
    ("there", "resolv", "found"),
    [
        ([], "", None),
        (["run/systemd/resolve/io.systemd.Resolve"], "nameserver 192.0.2.1", "resolved"),
        (["run/dnsmasq/dnsmasq.pid"], "", "dnsmasq"),
        (["run/dnsmasq/dnsmasq.pid", "run/systemd/resolve/resolv.conf"], "nameserver 127.0.0.53", "resolved"),
        (["run/dnsmasq.pid", "run/systemd/resolve/resolv.conf"], "nameserver 127.0.0.1", "dnsmasq"),
    ],
)
def test_the_resolver_that_runs_is_found(tmp_path, there, resolv, found):
    for name in (*there, "etc/resolv.conf"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(resolv)
    assert running(tmp_path) == found


def test_servers_of_links_stay_in_charge_of_other_names():
    refuse_other_servers(resolvectl("Global: 192.0.2.1\nLink 2 (eth0): 192.0.2.1\n"), HERE, ZONES)
    again = "Global: 127.0.0.1:15053 192.0.2.1\nLink 2 (eth0): 192.0.2.1 2001:db8::1\n"
    refuse_other_servers(resolvectl(again, OURS), HERE, ZONES)


@pytest.mark.parametrize(
    ("servers", "domains", "word"),
    [
        ("Global: 1.1.1.1\nLink 2 (eth0): 192.0.2.1\n", "Global:\n", "other global servers.* 1.1.1.1"),
        (
            "Global: 127.0.0.1:15053 1.1.1.1\n        9.9.9.9#dns.example\nLink 2 (eth0): 192.0.2.1\n",
            "Global:\n",
            "9.9.9.9",
        ),
        ("Global: 192.0.2.1\nLink 2 (eth0): 192.0.2.1\n", "Global: corp.example\n", "global domains.* corp.example"),
        ("Global: 127.0.0.1:15053\nLink 2 (eth0):\n", "Global: ~mesh\n", "no link has a DNS server"),
    ],
)
def test_resolved_is_left_alone_where_other_names_would_suffer(servers, domains, word):
    with pytest.raises(UsageProblem, match=word) as refused:
        refuse_other_servers(resolvectl(servers, domains), HERE, ZONES)
    assert refused.value.next_step


def test_what_applications_find_is_what_the_libc_says():
    assert "127.0.0.1" in looked_up("localhost") or "::1" in looked_up("localhost")
    assert looked_up("-") == looked_up("") == frozenset()


def test_a_command_that_fails_says_why():
    assert run_command(("printf", "%s", "yes")) == "yes"
    with pytest.raises(NotFound, match="false"):
        run_command(("false",))
    with pytest.raises(NotFound, match="no-such-program"):
        run_command(("no-such-program", "x"))
