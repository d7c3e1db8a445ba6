"""`meshagent top`, `graph` and `tap`: what they ask of agents and store, and how they show it."""

from __future__ import annotations

import asyncio
import io
import json
import os
import termios
from dataclasses import replace

import pytest
from rich.console import Console

from meshagent.api.fleet import FleetTraffic
from meshagent.cli.counters import byte_rate, milliseconds, per_second, percent
from meshagent.cli.tap import line
from meshagent.cli.top import Chosen, pressed, screen, table
from meshagent.model.edges import Edge, EdgeRate

QUICK = ("--window", "10ms")
CALLS = {"side": "outbound", "source": "web", "destination": "payments", "protocol": "http", "route": "", "subset": ""}
SEEN = {
    "time": "2026-11-21T18:50:57.263000+00:00",
    "side": "inbound",
    "source": "web",
    "destination": "payments",
    "method": "GET",
    "path": "/v1/carts",
    "status": 200,
    "duration_ms": 2,
    "route": "",
    "subset": "",
    "reason": "",
    "ticket": "",
}


def counting(agent, *edges_before, after):
    """Let the agent answer with two readings."""
    agent.answer_once({"host": "vm-1"})
    agent.answer_once({"since": None, "edges": list(edges_before), "rules": []})
    agent.answer_once({"since": None, "edges": after, "rules": []})


def rate(**more):
    base = EdgeRate("web", "api", "http", "", "", 0.0, 0.0, None, None, 0, 0.0, 0.0)
    return replace(base, **more)


def test_top_tells_what_happened_between_two_readings(mesh, agent):
    counting(agent, CALLS | {"requests": {"2xx": 10}}, after=[CALLS | {"requests": {"2xx": 12, "5xx": 2}, "active": 1}])
    found = json.loads(mesh.run("top", "--output", "json", *QUICK).stdout)
    (edge,) = found["edges"]
    assert (edge["source"], edge["destination"], edge["error_ratio"], edge["active"]) == ("web", "payments", 0.5, 1)
    assert edge["rps"] > 0 and found["hosts"] == ["vm-1"] and found["missing"] == {}


def test_hosts_that_cannot_be_asked_are_told(mesh, agent):
    mesh.report("vm-2", ["api"], 1)
    counting(agent, CALLS, after=[CALLS])
    done = mesh.run("top", "--once", *QUICK)
    assert done.stdout == "nobody calls anybody\n"
    assert "warning: not in these numbers: vm-2: its report names no metrics page" in done.stderr


def test_without_a_store_there_is_this_host_alone(env, agent):
    counting(agent, CALLS | {"requests": {"2xx": 0}}, after=[CALLS | {"requests": {"2xx": 1}}])
    done = agent.run("top", "--once", *QUICK)
    assert (
        "web     payments" in done.stdout
        and "not in these numbers: the mesh's other hosts: there is no store" in done.stderr
    )


def test_without_an_agent_here_the_other_hosts_are_told(mesh):
    mesh.report("vm-2", ["api"], 1)
    found = json.loads(mesh.run("top", "--output", "json", *QUICK).stdout)
    assert set(found["missing"]) == {"vm-2", "this host's agent"} and found["edges"] == found["hosts"] == []


def test_with_neither_store_nor_agent_it_is_an_error(env, agent):
    agent.answer("GET", "/v1/status", {"code": "E010", "message": "not now", "next_step": ""}, 500)
    assert "not now" in agent.run("top", "--once", *QUICK, code=1).stderr


def test_of_one_service_what_it_calls_and_who_calls_it_is_shown_the_busiest_first():
    found = [rate(rps=1.0), rate(rps=5.0, destination="db"), rate(source="cron", destination="db", rps=9.0), rate()]
    chosen = Chosen("web", routes=False, every=False).of(found)
    assert [(each.source, each.destination) for each in chosen] == [("web", "db"), ("web", "api")]
    assert len(Chosen(None, routes=False, every=True).of(found)) == 4


def test_routes_and_subsets_are_shown_when_asked_for_and_what_a_route_led_on_always():
    found = [rate(rps=2.0), rate(rps=1.0, route="search"), rate(rps=1.0, subset="v2"), rate(rps=0.5, route="via shop")]
    assert [each.route for each in Chosen(None, routes=False, every=False).of(found)] == ["", "via shop"]
    shown = table(Chosen(None, routes=True, every=False).of(found), routes=True)
    assert shown.titles[2:4] == ("ROUTE", "SUBSET") and len(shown.rows) == 4


def test_the_live_picture_has_the_table_and_who_is_not_in_it():
    before = FleetTraffic((Edge("outbound", "web", "api", host="vm-1"),), ("vm-1",), {}, 10.0)
    after = FleetTraffic(
        (Edge("outbound", "web", "api", requests={"2xx": 50}, host="vm-1"),), ("vm-1",), {"vm-2": "away\x1b[2J"}, 15.0
    )
    out = io.StringIO()
    Console(file=out, width=100).print(screen(before, after, Chosen(None, routes=False, every=False)))
    text = out.getvalue()
    assert "1 host, the last 5 s; q ends it" in text and "10.0" in text
    assert "not in these numbers: vm-2: away" in text and "\x1b[2J" not in text


async def test_q_ends_the_live_picture_and_the_terminal_is_as_it_was(monkeypatch):
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "rb", buffering=0) as terminal:
        before = termios.tcgetattr(theirs)
        monkeypatch.setattr("sys.stdin", terminal)
        with pressed("q") as ended:
            assert not termios.tcgetattr(theirs)[3] & termios.ECHO
            os.write(ours, b"x")
            await asyncio.sleep(0)
            os.write(ours, b"q")
            async with asyncio.timeout(5):
                await ended.wait()
        assert termios.tcgetattr(theirs) == before
    os.close(ours)


@pytest.mark.parametrize(
    ("shown", "told"),
    [
        ([per_second(value) for value in (0, 0.034, 5.25, 123.4)], ["0.0", "0.03", "5.2", "123"]),
        ([milliseconds(value) for value in (None, 0.25, 12.4)], ["-", "0.2 ms", "12 ms"]),
        (
            [byte_rate(value) for value in (0, 12, 2500, 25_000, 3e6, 4e9)],
            ["0 B/s", "12 B/s", "2.5 kB/s", "25 kB/s", "3.0 MB/s", "4.0 GB/s"],
        ),
        ([percent(value) for value in (0, 0.0004, 0.034, 1)], ["0 %", "< 0.1 %", "3.4 %", "100.0 %"]),
    ],
)
def test_numbers_have_the_digits_that_tell_something(shown, told):
    assert shown == told


@pytest.mark.parametrize("form", ["text", "dot", "svg"])
def test_graph_writes_services_and_calls(mesh, agent, form):
    counting(agent, CALLS, after=[CALLS | {"requests": {"2xx": 3}}])
    out = mesh.run("graph", "--output", form, *QUICK).stdout
    assert "web" in out and "payments" in out
    assert {"text": "  -> payments  ", "dot": '"web" -> "payments" [', "svg": "</svg>"}[form] in out


def test_graph_as_json_has_health_and_rates(mesh, agent):
    mesh.register("payments", host="vm-2", health="failing")
    counting(agent, CALLS, after=[CALLS | {"requests": {"2xx": 3}}])
    found = json.loads(mesh.run("graph", "--output", "json", *QUICK).stdout)
    nodes = {node["name"]: node for node in found["nodes"]}
    assert (nodes["payments"]["instances"], nodes["payments"]["passing"], nodes["payments"]["health"]) == (
        2,
        1,
        "degraded",
    )
    assert found["edges"][0]["rps"] > 0 and nodes.keys() == {"db", "payments", "web"}


def test_tap_asks_for_what_was_said_and_ends_after_the_count(agent):
    lines = [SEEN, {"missed": 4}, SEEN | {"path": "/second"}, SEEN | {"path": "/third"}]
    agent.answer("GET", "/v1/tap", b"".join(json.dumps(each).encode() + b"\n" for each in lines))
    done = agent.run("tap", "payments", "--path", "/v1/*", "--failed", "--status", "5xx", "--count", "2")
    assert done.stdout.splitlines() == [line(SEEN), line(SEEN | {"path": "/second"})]
    assert "warning: 4 requests went by unseen" in done.stderr
    asked = {name: values[0] for name, values in agent.asked[0][2].items()}
    assert asked == {"service": "payments", "path": "/v1/*", "failed": "1", "status": "5xx"}


def test_tap_as_json_is_one_line_each_and_an_agent_that_ends_is_an_error(agent):
    agent.answer("GET", "/v1/tap", json.dumps(SEEN).encode() + b"\n")
    done = agent.run("tap", "--output", "json", code=4)
    assert json.loads(done.stdout) == SEEN and "the agent ended" in done.stderr


def test_tap_tells_what_the_agent_refuses(agent):
    agent.answer(
        "GET", "/v1/tap", {"code": "E007", "message": "no proxy of x runs on this host", "next_step": "look"}, 404
    )
    assert "no proxy of x runs on this host" in agent.run("tap", "x", code=1).stderr


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({}, "18:50:57.263  inbound   web -> payments           GET /v1/carts 200  2 ms"),
        (
            {"doubted": True},
            "18:50:57.263  inbound   web -> payments           GET /v1/carts 200  2 ms  shadow would refuse it",
        ),
        (
            {"status": 403, "reason": "intention", "ticket": "17-4"},
            "18:50:57.263  inbound   web -> payments           GET /v1/carts 403  2 ms  intention  ticket 17-4",
        ),
        (
            {"side": "outbound", "route": "canary", "subset": "v2"},
            "18:50:57.263  outbound  web -> payments           GET /v1/carts 200  2 ms  [canary v2]",
        ),
        (
            {"method": "", "status": 0, "path": "", "source": "", "duration_ms": -1},
            "18:50:57.263  inbound   ? -> payments             connection",
        ),
    ],
)
def test_a_live_request_is_one_line(more, told):
    assert line(SEEN | more) == told
