"""`meshagent redirect`: what is to be captured, what is done about it, and what is said when it is not so."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest

from meshagent.cli.captures import mismatch, redirection_of
from meshagent.config.agent import CaptureConfig
from meshagent.errors import UsageProblem
from meshagent.host.redirect import CapturedService, Redirection, Standing, rules

ROW = {"name": "web", "port": 8080, "capture": {"user": 1001, "cgroup": None, "port": 15001, "closes": True}}
STATUS = {"uid": 990, "envoy": {"pid": 0}, "captured": ["web"]}
WANTED = Redirection((CapturedService("web", 15001, uid=1001, closed=(8080,)),), exempt=(990,))
IN_FORCE = Standing(there=True, digest=WANTED.digest, rules=WANTED.rules, holds=True)


def made(*rows, own=(990,), ssh="", **config):
    return redirection_of(rows, own, CaptureConfig.model_validate(config), ssh)


def test_what_is_captured_is_what_the_agent_says_and_the_settings_leave():
    other = {
        "name": "api",
        "port": 8081,
        "capture": {"user": None, "cgroup": "api.slice", "port": 15002, "closes": False},
    }
    found = made(
        ROW,
        {"name": "db", "port": 1, "capture": None},
        other,
        ROW | {"port": 8090},
        exclude_ports=[53],
        exclude_users=["root", "77"],
        ssh="198.51.100.7 51000 10.0.0.1 2222",
    )
    assert found == Redirection(
        services=(
            CapturedService("api", 15002, cgroup="api.slice"),
            CapturedService("web", 15001, uid=1001, closed=(8080, 8090)),
        ),
        exempt=(0, 77, 990),
        ports=(53,),
        ssh_ports=(2222,),
    )
    assert made({"name": "db", "capture": None}) is None


@pytest.mark.parametrize(
    ("user", "config", "words"),
    [
        ("root", {}, "this is root"),
        (990, {}, "a user who is left alone"),
        (1001, {"exclude_users": ["1001"]}, "a user who is left alone"),
        ("no-such-user", {}, "has no user no-such-user"),
    ],
)
def test_attack_50_an_app_of_root_or_of_envoys_user_cannot_be_captured(user, config, words):
    with pytest.raises(UsageProblem, match=words):
        made(ROW | {"capture": ROW["capture"] | {"user": user}}, **config)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (IN_FORCE, ""),
        (Standing(), "web: to be captured, but no rules are in force"),
        (replace(IN_FORCE, holds=False), "the undo timer ran out"),
        (replace(IN_FORCE, digest="0123"), "of other services or settings"),
        (replace(IN_FORCE, rules=1), "somebody changed the rules"),
        (replace(IN_FORCE, undo_in=7), "undone in 7 s"),
    ],
)
def test_rules_that_are_not_as_they_should_be_are_told_with_the_next_step(found, words):
    problem, step = mismatch(WANTED, found)
    assert words in problem and bool(step) == bool(words)
    assert mismatch(None, found) == (
        ("rules of a capture are in force, but no service here is captured", "meshagent redirect down")
        if found.there
        else ("", "")
    )


@pytest.fixture
def nft(tmp_path, monkeypatch):
    """Programs of a kernel that holds what the test says; they write down what they were told."""

    def install(held="", code=0, said=""):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        (tmp_path / "held").write_text(held)
        (tmp_path / "said").write_text(said)
        script = f'#!/bin/sh\necho "$(basename $0) $@" >> {tmp_path}/told\n'
        script += f'case "$*" in *list*) cat {tmp_path}/held; [ -s {tmp_path}/held ] && exit 0\n'
        script += 'echo "Error: No such file or directory" >&2; exit 1;; *show*) echo there;; esac\n'
        script += f'[ "$1" = -f -o "$1" = --check ] && cat >> {tmp_path}/given\ncat {tmp_path}/said >&2; exit {code}\n'
        for name in ("nft", "ip"):
            (folder / name).write_text(script)
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        monkeypatch.delenv("SSH_CONNECTION", raising=False)
        return lambda name: (tmp_path / name).read_text() if (tmp_path / name).exists() else ""

    return install


@pytest.fixture
def host(agent):
    agent.answer("GET", "/v1/services", {"services": [ROW]})
    agent.answer("GET", "/v1/status", STATUS)
    return agent


def held(redirection, elements=("ipv4", "ipv6")):
    found = [{"rule": {"comment": f"meshagent {redirection.digest}"}}, *[{"rule": {}}] * (redirection.rules - 1)]
    return json.dumps({"nftables": [{"set": {"name": "armed", "elem": list(elements)}}, *found]})


def test_up_checks_the_rules_before_it_puts_them_in_force_and_says_how_to_keep_them(host, nft):
    kernel = nft()
    said = host.run("redirect", "up", "--undo", "5m").stderr
    told = kernel("told").splitlines()
    assert told[:2] == ["nft --check -f -", "nft -f -"]
    assert "ip -4 route replace 248.0.0.0/6 dev lo src 127.0.0.1" in told
    assert kernel("given") == rules(WANTED, 300) * 2
    assert "undone in 300 s, unless" in said and "web: connections of user 1001" in said
    assert "undone" not in host.run("redirect", "up", "--yes").stderr
    assert kernel("given").endswith(rules(WANTED, None))


def test_a_dry_run_prints_the_rules_and_touches_nothing(host, nft):
    kernel = nft()
    assert host.run("redirect", "up", "--dry-run", "--no-undo").stdout == rules(WANTED, None)
    assert kernel("told") == ""


def test_where_nothing_is_captured_nothing_is_put_in_force(agent, nft):
    kernel = nft()
    agent.answer("GET", "/v1/services", {"services": [ROW | {"capture": None}]})
    agent.answer("GET", "/v1/status", STATUS)
    assert "no service of this host is captured" in agent.run("redirect", "up", code=2).stderr
    assert kernel("told") == ""


def test_what_nft_refuses_is_told_and_not_tried(host, nft):
    kernel = nft(code=1, said="/dev/stdin:3:1-2: Error: Could not process rule")
    assert "nft refuses: /dev/stdin:3" in host.run("redirect", "up", code=1).stderr
    assert kernel("told").splitlines() == ["nft --check -f -"]
    nft(code=1, said="Operation not permitted (you must be root)")
    assert "only root may capture" in host.run("redirect", "up", code=1).stderr


@pytest.mark.parametrize(
    ("elements", "code", "words"),
    [(("ipv4", "ipv6"), 0, "confirmed"), ((), 1, "the timer ran out"), (None, 1, "nothing is captured")],
)
def test_a_confirmation_counts_only_while_the_rules_hold(host, nft, elements, code, words):
    kernel = nft("" if elements is None else held(WANTED, elements))
    assert words in host.run("redirect", "confirm", code=code).stderr
    assert ("add element inet meshagent armed { ipv4, ipv6 }" in kernel("given")) == (code == 0)


def test_down_takes_the_table_away_and_then_the_routes(host, nft):
    kernel = nft(held(WANTED))
    assert "the rules are gone" in host.run("redirect", "down").stderr
    assert "delete table inet meshagent" in kernel("given")
    assert "ip -6 route del fda4:dd8:6e82::/64 dev lo" in kernel("told")
    nft()
    assert "nothing was captured" in host.run("redirect", "down").stderr


def test_show_says_what_is_and_with_exit_code_5_that_it_should_be_otherwise(host, nft):
    nft(held(WANTED))
    shown = host.json("redirect", "show")
    assert (shown["in_force"], shown["problem"], shown["undo_in_s"]) == (True, "", None)
    assert any("connections of user 1001" in words for words in shown["meaning"])
    nft(held(replace(WANTED, egress="registered")))
    shown = host.run("redirect", "show", code=5).stdout
    assert "but: the rules are of other services or settings than now" in shown and "user 1001" not in shown
    host.answer("GET", "/v1/status", {"code": "E000", "message": "broken"}, 500)
    assert "is not known: broken" in host.run("redirect", "show", code=5).stdout


def test_doctor_looks_at_the_rules_where_a_service_is_captured(host, mesh, nft):
    nft(held(WANTED))
    assert found(host) == [("ok", "")]
    nft()
    assert found(host, code=1) == [("bad", "meshagent redirect up")]
    timed = [{"elem": {"val": "ipv4", "timeout": 60, "expires": 41}}]
    nft(held(WANTED, timed))
    assert found(host) == [("warning", "meshagent redirect confirm")]


def found(host, code=None):
    status = STATUS | {"services": ["web"], "store_ok": True, "applied_revision": 1}
    host.answer("GET", "/v1/status", status | {"envoy": {"pid": 0, "ready": True}})
    rows = host.json("doctor", code=code or 0)
    return [(each["state"], each["next_step"]) for each in rows if each["about"] == "capture"]
