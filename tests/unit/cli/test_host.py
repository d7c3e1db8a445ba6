"""What is asked of this host's agent: up, down, services, proxy and status, with an agent and without."""

from __future__ import annotations

import json

import pytest

WEB = "name: web\nport: 8080\nprotocol: http\nupstreams: [{service: payments, local_port: 9191}]\n"
ROW = {
    "name": "web",
    "id": "web",
    "port": 8080,
    "address": "127.0.0.1",
    "protocol": "http",
    "mtls_port": 21000,
    "health": "failing",
    "checks": [{"kind": "http", "target": "http://x", "status": "failing", "output": "503"}],
    "upstreams": [
        {
            "service": "payments",
            "local_port": 9191,
            "local_socket": None,
            "protocol": "http",
            "endpoints": 2,
            "healthy": 1,
        },
        {
            "service": "db",
            "local_port": None,
            "local_socket": "/run/db",
            "protocol": "tcp",
            "endpoints": 0,
            "healthy": 0,
        },
    ],
    "source": "api",
}
STATUS = {
    "host": "vm-1",
    "address": "10.0.0.1",
    "agent_version": "0.1.0",
    "envoy_version": "1.40.0",
    "store_ok": False,
    "stale_since": "2026-11-21T00:00:00+00:00",
    "applied_revision": 3,
    "problems": {"svid/web": "the CA does not answer"},
    "rejected": {"in/21000": "no such filter"},
    "envoy": {"pid": 4, "ready": True, "restarts": 0},
}
PROXY = {
    "pid": 4,
    "version": "1.40.0",
    "ready": True,
    "uptime_s": 12.3,
    "adopted": False,
    "connected": True,
    "types": {"cluster": {"subscribed": 2, "applied": 2, "rejected": {}, "sent": 5}},
    "restarts": 0,
}


def test_up_registers_every_definition_and_says_where_upstreams_are(agent, tmp_path):
    (tmp_path / "a.yaml").write_text(WEB + "---\nname: batch\nport: 9000\n")
    agent.answer_once(ROW | {"upstreams": []})
    agent.answer_once(ROW | {"name": "batch", "id": "batch"})
    agent.answer("GET", "/v1/services", {"services": [ROW]})
    shown = agent.run("up", "a.yaml", "--timeout", "5s").stdout.splitlines()
    assert shown[:3] == [
        "web: up, http on 127.0.0.1:8080, mTLS on port 21000, failing",
        "  payments is at 127.0.0.1:9191 (http, 1 of 2 healthy)",
        "  db is at /run/db (tcp, no instance yet)",
    ]
    sent = [(method, path, query, body["name"]) for method, path, query, body in agent.asked[:2]]
    assert sent == [("PUT", "/v1/services", {"wait": ["5"]}, name) for name in ("web", "batch")]
    assert agent.asked[0][3] == {
        "name": "web",
        "port": 8080,
        "protocol": "http",
        "upstreams": [{"service": "payments", "local_port": 9191}],
    }


def test_up_reads_stdin_and_prints_the_rows_as_json(agent):
    agent.answer("PUT", "/v1/services", ROW)
    assert agent.json("up", "-", stdin=WEB) == [ROW]


def test_up_asks_nothing_while_a_definition_has_a_problem(agent, tmp_path):
    (tmp_path / "a.yaml").write_text(WEB)
    (tmp_path / "b.yaml").write_text("name: Web\nprot: 1\n")
    result = agent.run("up", "a.yaml", "b.yaml", code=3)
    assert "error: b.yaml:1: name: must be 1 to 63" in result.stderr
    assert "error: b.yaml:2: prot: is not a field of service definition (did you mean port?)" in result.stderr
    assert agent.asked == []


def test_up_sends_policy_documents_to_where_they_belong(agent, tmp_path):
    (tmp_path / "a.yaml").write_text("kind: service\nname: web\n")
    assert "meshagent policy apply" in agent.run("up", "a.yaml", code=3).stderr


def test_up_says_which_were_registered_before_one_failed(agent, tmp_path):
    (tmp_path / "a.yaml").write_text(WEB + "---\nname: batch\nport: 9000\n")
    agent.answer_once(ROW)
    agent.answer(
        "PUT", "/v1/services", {"code": "E501", "message": "port 9191 is taken", "next_step": "take 9192"}, 409
    )
    result = agent.run("up", "a.yaml", code=1)
    assert (
        result.stderr == "web: up\nbatch: failed, the rest was not tried\nerror: port 9191 is taken\nnext: take 9192\n"
    )


def test_down_says_how_long_it_drained(agent):
    agent.answer("DELETE", "/v1/services/web", {"name": "web", "id": "web-2", "drained_ms": 520})
    assert agent.run("down", "web", "--id", "web-2").stdout == "web (web-2): down, drained in 520 ms\n"
    assert agent.asked == [("DELETE", "/v1/services/web", {"id": ["web-2"]}, None)]


def test_down_of_what_is_not_there_fails_with_the_agents_words(agent):
    agent.answer("DELETE", "/v1/services/wbe", {"code": "E103", "message": "no service wbe", "next_step": "see"}, 404)
    assert agent.run("down", "wbe", code=1).stderr == "error: no service wbe\nnext: see\n"


def test_services_lists_what_runs_here(agent):
    agent.answer("GET", "/v1/services", {"services": [ROW]})
    lines = agent.run("services").stdout.splitlines()
    assert lines[0].split() == ["NAME", "ID", "ADDRESS", "PROTOCOL", "MTLS", "PORT", "HEALTH", "UPSTREAMS", "FROM"]
    assert "failing: http 503  payments@9191, db@/run/db  api" in lines[1]
    assert agent.json("services") == [ROW]
    agent.answer("GET", "/v1/services", {"services": []})
    assert "no service runs on this host" in agent.run("services").stderr


def test_services_all_lists_the_catalog(mesh):
    mesh.register("web", host="vm-2", address="fd00::1", meta={"version": "v2"}, region="eu", zone="eu-1a")
    rows = mesh.json("services", "--all")
    assert [(row["service"], row["host"]) for row in rows] == [
        ("db", "vm-1"),
        ("payments", "vm-1"),
        ("web", "vm-1"),
        ("web", "vm-2"),
    ]
    assert "[fd00::1]:21000  http      passing  version=v2  eu/eu-1a" in mesh.run("services", "--all").stdout


def test_services_ttl_feeds_the_check(agent):
    agent.answer("PUT", "/v1/services/web/ttl", {"name": "web", "id": "web"})
    assert agent.run("services", "ttl", "web", "fail", "--note", "queue full").stdout == "web: failing\n"
    assert agent.asked == [("PUT", "/v1/services/web/ttl", {}, {"status": "failing", "output": "queue full"})]
    agent.run("services", "ttl", "web", "maybe", code=2)


def test_proxy_status_says_whether_all_is_well(agent):
    agent.answer("GET", "/v1/proxy/status", PROXY)
    result = agent.run("proxy", "status")
    assert result.stdout.splitlines()[0] == "envoy 1.40.0, pid 4, up 12 s: ready, connected to its agent"
    assert agent.json("proxy", "status") == PROXY
    types = {"listener": {"subscribed": 1, "applied": 0, "rejected": {"in/21000": "no such filter"}, "sent": 1}}
    agent.answer("GET", "/v1/proxy/status", PROXY | {"types": types})
    assert "rejected in/21000: no such filter" in agent.run("proxy", "status", code=1).stdout


def test_proxy_config_is_json_whatever_the_table(agent):
    agent.answer("GET", "/v1/proxy/config", {"configs": [1]})
    assert json.loads(agent.run("proxy", "config").stdout) == {"configs": [1]}
    assert agent.run("proxy", "config", "-o", "yaml").stdout == "configs:\n- 1\n"


def test_proxy_stats_pass_the_filter_on(agent):
    agent.answer("GET", "/v1/proxy/stats", {"stats": {"a.rbac.denied": 1_234_567, "a.rbac.allowed": 2}})
    shown = agent.run("proxy", "stats", "--filter", "rbac").stdout
    assert [line.split() for line in shown.splitlines()[1:]] == [["a.rbac.allowed", "2"], ["a.rbac.denied", "1234567"]]
    assert agent.asked[0][2] == {"filter": ["rbac"]}


def test_status_joins_the_store_and_the_agent(mesh, agent):
    mesh.run("intention", "allow", "web", "payments")
    mesh.report("vm-1", ["payments", "web"], 1, svids={"web": "2026-11-20T00:00:00Z"}, problems=["store: slow"])
    agent.answer("GET", "/v1/status", STATUS)
    result = mesh.run("status")
    assert "mesh   mesh.internal, default deny, revision 2" in result.stdout
    assert (
        "1 behind  payments, web  2026-11-20T00:00:00Z  store: slow; the certificate of web has ended" in result.stdout
    )
    assert "away since 2026-11-21T00:00:00+00:00, so the last good policy stays" in result.stdout
    assert "problem: rejected in/21000: no such filter" in result.stdout
    assert "problem: svid/web: the CA does not answer" in result.stdout
    value = mesh.json("status")
    assert value["mesh"] == {
        "trust_domain": "mesh.internal",
        "default_action": "deny",
        "revision": 2,
        "services": 3,
        "instances": 3,
        "intentions": 1,
    }
    assert value["agent"] == STATUS
    assert value["hosts"][0]["behind"] == 1


def test_status_works_without_the_agent_and_says_so(mesh):
    result = mesh.run("status")
    assert "mesh   mesh.internal" in result.stdout
    assert "warning: this host's agent: no agent answers on " in result.stderr
    assert mesh.json("status")["agent"] is None


def test_status_works_without_the_store_and_says_so(agent):
    agent.answer("GET", "/v1/status", STATUS)
    result = agent.run("status")
    assert "agent  vm-1 (10.0.0.1), envoy 1.40.0 ready" in result.stdout
    assert "warning: the store: there is no store at sqlite://" in result.stderr
    assert agent.json("status")["store"]["ok"] is False


def test_status_with_neither_is_unreachable(env):
    from tests.unit.cli.conftest import Commands

    result = Commands(env).run("status", code=4)
    assert "error: there is no store at" in result.stderr
    assert "error: no agent answers on" in result.stderr


def test_status_names_a_record_that_cannot_be_read(mesh):
    mesh.put("meshagent/v1/config/intention/payments", b"{}")
    assert "warning: the intention record payments cannot be read" in mesh.run("status").stderr


@pytest.mark.parametrize("command", [("services",), ("down", "web"), ("proxy", "status"), ("proxy", "stats")])
def test_without_an_agent_everything_of_this_host_is_unreachable(env, command):
    from tests.unit.cli.conftest import Commands

    result = Commands(env).run(*command, code=4)
    assert "error: no agent answers on " in result.stderr
    assert "next: start one: meshagent agent" in result.stderr
