"""The rules of transparent capture: each line has its reason, and what the kernel holds is read back as it is."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from meshagent.host.redirect import CapturedService, Redirection, Standing, meaning, rules, standing_of

HERE = Path(__file__).parent
SMALL = Redirection((CapturedService("web", 15001, uid=1001, closed=(8080,)),), exempt=(990,))
LARGE = replace(
    SMALL,
    services=(*SMALL.services, CapturedService("api", 15002, cgroup="system.slice/api.service", closed=(22, 8081))),
    exempt=(0, 990),
    egress="registered",
    ports=(53, 8500),
    addresses=(ip_network("10.0.0.0/8"), ip_network("fd00::/8")),
    cgroups=("system.slice/backup.service",),
    ssh_ports=(2222,),
)


@pytest.mark.parametrize(("name", "redirection", "undo"), [("small", SMALL, None), ("large", LARGE, 60)])
def test_the_rules_are_as_reviewed(name, redirection, undo, request):
    path = HERE / f"redirect-{name}.nft"
    if request.config.getoption("--update-golden", default=False):
        path.write_text(rules(redirection, undo))
    assert rules(redirection, undo) == path.read_text()


def test_only_the_timer_tells_rules_with_an_undo_from_those_without():
    armed, certain = rules(SMALL, 60), rules(SMALL, None)
    assert armed.replace(" timeout 60s", "") == certain != armed


def test_ssh_is_never_closed_nor_led_anywhere_whatever_port_the_app_has():
    closed = [line for line in rules(LARGE, None).splitlines() if "ct direction original" in line]
    assert closed == ["\t\ttcp dport { 8080, 8081 } ct direction original reject with tcp reset"]
    assert "tcp dport { 22, 53, 2222, 8500 } return" in rules(LARGE, None)
    only_ssh = replace(SMALL, services=(CapturedService("git", 15001, uid=1, closed=(22,)),))
    assert "ct direction original" not in rules(only_ssh, None)


def test_a_cgroup_is_looked_at_before_a_user_since_it_is_the_narrower():
    led = [line for line in rules(LARGE, None).splitlines() if "redirect to" in line]
    assert ["15002" in line for line in led] == [True, True, False, False]


def test_the_digest_is_of_the_rules_and_not_of_the_session_that_made_them():
    assert replace(LARGE, ssh_ports=(2200,)).digest == LARGE.digest
    others = [
        SMALL,
        replace(LARGE, egress="all"),
        replace(LARGE, ports=(53,)),
        replace(LARGE, services=LARGE.services[:1]),
    ]
    assert LARGE.digest not in {each.digest for each in others}


def test_what_the_rules_mean_is_said_in_words():
    said = "\n".join(meaning(LARGE))
    for words in (
        "web: connections of user 1001",
        "cgroup system.slice/api.service",
        "8080, 8081",
        "is refused",
        "22, 53",
    ):
        assert words in said
    assert "refused" not in "\n".join(meaning(SMALL))


def listing(elements, comment="meshagent 0123456789abcdef", number=3):
    armed = {"family": "inet", "name": "armed", "table": "meshagent", "type": "nf_proto", "flags": ["timeout"]}
    found = [{"rule": {"chain": "going", "comment": comment}}, *({"rule": {"chain": "x"}} for _ in range(number - 1))]
    return {"nftables": [{"metainfo": {}}, {"set": armed | ({"elem": elements} if elements else {})}, *found]}


def test_what_the_kernel_holds_is_confirmed_or_armed_or_has_run_out():
    timed = [{"elem": {"val": "ipv4", "timeout": 60, "expires": 41}}, {"elem": {"val": "ipv6", "expires": 42}}]
    known = {"there": True, "digest": "0123456789abcdef", "rules": 3}
    assert standing_of(listing(["ipv4", "ipv6"])) == Standing(holds=True, **known)
    assert standing_of(listing(timed)) == Standing(holds=True, undo_in=41, **known)
    assert standing_of(listing([])) == Standing(holds=False, **known)
    assert standing_of(json.loads('{"nftables": []}')) == Standing(there=True)


def test_the_number_of_rules_is_that_of_the_text():
    text = [line for line in rules(LARGE, 60).splitlines() if line.startswith("\t\t")]
    assert LARGE.rules == len(text) - len(["typeof", "flags", "elements", "going", "leaving", "arriving"])
