"""Each way to be refused or to fail: the caller is told a code and a ticket, and the log has both. With a real Envoy."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import struct
import sys
from contextlib import AsyncExitStack
from datetime import timedelta
from types import SimpleNamespace
from urllib.parse import urlencode

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives import serialization

from meshagent.model.service import Instance
from meshagent.state.catalog import put_instance
from tests.system.apps import Caller, HttpApp, TcpApp, get, raw
from tests.system.forged import DOMAIN, Forger, Peer, uri
from tests.system.live import KEYS, eventually, free_port, live_mesh

pytestmark = pytest.mark.asyncio(loop_scope="module")
HTTP = ("payments", "down", "ghosts", "fake", "stale", "alien", "picky", "curt", "plain", "brittle", "narrow")
RULES = [
    {"name": "broken", "match": {"path_prefix": "/fault"}, "fault": {"abort": {"percent": 100, "status": 500}}},
    {"name": "hasty", "match": {"path_prefix": "/slow"}, "timeout": "100ms"},
    {"name": "few", "match": {"path_prefix": "/few"}, "rate_limit": {"requests_per_second": 1, "burst": 1}},
    {"name": "own", "match": {"path_prefix": "/own"}, "respond": {"status": 503, "body": "closed"}},
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop():
    """web calls everything here; most of it fails, each in a way of its own."""
    async with live_mesh() as mesh, AsyncExitStack() as stack:
        agent = await mesh.agent()
        payments = await stack.enter_async_context(HttpApp(free_port(), "payments"))
        ledger = await stack.enter_async_context(TcpApp(free_port()))
        narrow = await stack.enter_async_context(HttpApp(free_port(), "narrow"))
        brittle = await asyncio.start_server(hang_up, "127.0.0.1", free_port())
        stack.push_async_callback(close, brittle)
        ports = {"payments": payments.port, "narrow": narrow.port, "brittle": brittle.sockets[0].getsockname()[1]}
        for name, port in {**ports, "down": free_port()}.items():
            await agent.up(name=name, port=port, protocol="http")
        await agent.up(name="ledger", port=ledger.port, protocol="tcp")
        local = {name: free_port() for name in (*HTTP, "ledger", "abroad")}
        upstreams = [{"service": name, "local_port": port} for name, port in local.items()]
        await agent.up(name="web", port=free_port(), protocol="http", upstreams=upstreams)
        await agent.up(name="cron", port=free_port(), upstreams=[])
        await impostors(mesh, stack)
        documents = [
            {"kind": "intention", "name": name, "sources": [{"name": "web", "action": "allow"}]} for name in HTTP
        ]
        documents[0]["sources"][0] = {
            "name": "web",
            "permissions": [
                {"action": "deny", "http": {"path_prefix": "/secret"}},
                {"action": "allow", "http": {"path_prefix": "/"}},
            ],
        }
        documents.append({"kind": "intention", "name": "ledger", "sources": [{"name": "cron", "action": "allow"}]})
        abroad = {"hosts": ["nowhere.invalid"], "port": 80, "protocol": "http", "tls": {"mode": "none"}}
        documents.append({"kind": "external", "name": "abroad", **abroad})
        documents.append({"kind": "intention", "name": "abroad", "sources": [{"name": "web", "action": "allow"}]})
        documents += [{"kind": "service", "name": name, "protocol": "http"} for name in HTTP if name != "narrow"]
        pool = {"max_requests": 1, "max_pending_requests": 1, "max_connections": 1}
        documents.append({"kind": "service", "name": "narrow", "protocol": "http", "connection_pool": pool})
        documents.append({"kind": "route", "name": "payments", "rules": RULES})
        await mesh.applied(await mesh.apply(*documents))
        yield SimpleNamespace(mesh=mesh, agent=agent, local=local, payments=payments, ledger=ledger, narrow=narrow)


WAYS = (  # what is called, by which path; status, code at the caller, code in the log of who answered
    ("payments", "/secret", 403, "intention", "intention"),
    ("down", "/", 503, "app-down", "app-down"),
    ("ghosts", "/", 503, "no-endpoints", "no-endpoints"),
    ("abroad", "/", 503, "unresolved", "unresolved"),
    ("fake", "/", 503, "tls", "tls-identity"),
    ("stale", "/", 503, "tls", "tls-expired"),
    ("alien", "/", 503, "tls", "tls-unknown-root"),
    ("picky", "/", 503, "broken", "broken"),  # in TLS 1.3 a caller is refused after its own handshake has ended
    ("curt", "/", 503, "connect", "connect"),
    ("plain", "/", 503, "connect", "connect"),
    ("brittle", "/", 503, "app-broke", "app-broke"),
    ("payments", "/fault", 500, "fault", "fault"),
    ("payments", "/slow", 504, "timeout", "timeout"),
)


@pytest.mark.parametrize(("called", "path", "status", "told", "logged"), WAYS)
async def test_the_caller_is_told_a_code_and_a_ticket_and_the_log_has_both(shop, called, path, status, told, logged):
    answer = await get(shop.local[called], path)
    assert (answer.status, answer.headers["x-mesh-refused"]) == (status, told)
    ticket = answer.headers["x-mesh-ticket"]
    own = next(line for line in await seen(shop, ticket=ticket) if line["ticket"] == ticket)
    assert (own["source"], own["destination"]) == ("web", called)
    assert (own["reason"], own["status"], own["path"]) == (logged, status, path)
    assert own["source_id"] == f"spiffe://{DOMAIN}/svc/web"
    assert own["flag_words"] or own["details"]


async def test_whoever_answered_can_be_told_from_the_ticket(shop):
    """The destination's proxy said it: the caller's own line has its ticket as a far one."""
    answer = await get(shop.local["down"], "/far")
    lines = await seen(shop, 2, ticket=answer.headers["x-mesh-ticket"])
    assert {(line["side"], line["reason"]) for line in lines} == {("inbound", "app-down"), ("outbound", "app-down")}
    caller = next(line for line in lines if line["side"] == "outbound")
    assert caller["far_ticket"] == answer.headers["x-mesh-ticket"] != caller["ticket"]
    assert caller["destination_id"] == f"spiffe://{DOMAIN}/svc/down" and caller["instance"]


async def test_a_body_names_the_ticket_and_no_rule(shop):
    for called, path in (("payments", "/secret"), ("ghosts", "/")):
        answer = await get(shop.local[called], path)
        body = json.loads(answer.body)
        assert body["ticket"] == answer.headers["x-mesh-ticket"] and body["destination"] == called
        assert "secret" not in answer.text and "deny" not in answer.text


async def test_every_refusal_has_a_ticket_of_its_own(shop):
    answers = await asyncio.gather(*(get(shop.local["payments"], "/secret") for _ in range(30)))
    caller = Caller(shop.local["payments"])
    answers += [await caller.get("/secret", headers="x-request-id: mine\r\n") for _ in range(30)]
    caller.close()
    assert len({answer.headers["x-mesh-ticket"] for answer in answers}) == 60


async def test_a_rate_and_a_full_pool_are_told_apart(shop):
    answers = [await get(shop.local["payments"], "/few") for _ in range(3)]
    limited = next(answer for answer in answers if answer.status == 429)
    assert limited.headers["x-mesh-refused"] == "rate-limit"
    assert (await seen(shop, ticket=limited.headers["x-mesh-ticket"]))[0]["reason"] == "rate-limit"
    full = await asyncio.gather(*(get(shop.local["narrow"], "/slow") for _ in range(4)))
    refused = next(answer for answer in full if answer.status == 503)
    assert refused.headers["x-mesh-refused"] == "overflow"
    line, *_ = await seen(shop, ticket=refused.headers["x-mesh-ticket"])
    assert line["reason"] == "overflow"


async def test_what_a_route_answers_itself_is_left_as_it_is(shop):
    answer = await get(shop.local["payments"], "/own")
    assert (answer.status, answer.text) == (503, "closed") and "x-mesh-refused" not in answer.headers


async def test_an_answer_of_the_app_has_neither_code_nor_ticket(shop):
    shop.payments.status = 503
    answer = await get(shop.local["payments"], "/sick")
    shop.payments.status = 200
    assert answer.status == 503 and not {"x-mesh-refused", "x-mesh-ticket"} & answer.headers.keys()
    lines = await seen(shop, 2, reason="app-error")
    assert {line["side"] for line in lines} == {"inbound", "outbound"}
    inbound = next(line for line in lines if line["side"] == "inbound")
    assert inbound["rule"].startswith("payments/web#")  # which permission it was
    assert next(line for line in lines if line["side"] == "outbound")["route"] == ""


async def test_grpc_callers_get_a_status_a_code_and_a_ticket(shop):
    headers = "content-type: application/grpc\r\nte: trailers\r\n"
    for called, code, status in (("ghosts", "no-endpoints", "14"), ("payments", "intention", "7")):
        caller = Caller(shop.local[called])
        answer = await caller.get("/secret", "POST", headers)
        caller.close()
        assert (answer.status, answer.headers["grpc-status"]) == (200, status)
        assert answer.headers["x-mesh-refused"] == code and answer.headers["x-mesh-ticket"]


async def test_a_refused_connection_is_in_the_log_as_one(shop):
    assert await raw(shop.local["ledger"], b"hi", 0.3) == b""
    line = (await seen(shop, destination="ledger", side="inbound"))[0]
    assert (line["reason"], line["source"], line["status"]) == ("intention", "web", 0)
    await eventually(lambda: any(event["service"] == "ledger" for event in shop.agent.events("request_refused")), 5)


async def test_the_destination_logs_why_a_callers_tls_failed_and_believes_no_claim(shop):
    honest = Forger(shop.mesh.directory, shop.mesh.directory / "ca")
    strangers = {
        "tls-no-certificate": (None, "payments"),
        "tls-expired": (honest.sign(uri("web"), ends=timedelta(minutes=-5)), "payments"),
        "tls-unknown-root": (Forger(shop.mesh.directory).service("web"), "payments"),
        "tls-identity": (honest.service("orders"), "payments"),
        "no-service": (honest.service("web"), "nobody"),
    }
    for identity, called in strangers.values():
        answer = await Peer(shop.agent.inbound_port, identity, f"web.{called}.{DOMAIN}").get()
        assert isinstance(answer, str), answer
    for code, (_, called) in strangers.items():
        line = (await seen(shop, side="inbound", reason=code))[0]
        assert (line["source"], line["source_id"], line["destination"]) == ("", "", called)
    assert (await seen(shop, reason="tls-identity", side="inbound"))[0]["claimed"].endswith("/svc/orders")


async def test_a_ticket_leads_to_the_line_of_policy_and_to_the_command_that_allows_that_call(shop):
    answer = await get(shop.local["payments"], "/secret/1")
    ticket = answer.headers["x-mesh-ticket"]
    await seen(shop, ticket=ticket)
    code, told = await meshagent(shop, "explain", ticket)
    assert code == 5 and "web -> payments GET /secret/1: 403 l7-rule" in told
    assert "from     test.yaml:1" in told and "which    deny below /secret" in told
    step = told.partition("next     meshagent ")[2].splitlines()[0]
    assert step == "intention allow web payments --method GET --path-exact /secret/1"
    assert (await meshagent(shop, *step.split(), "--wait"))[0] == 0
    await eventually(lambda: asyncio.run(get(shop.local["payments"], "/secret/1")).status == 200, 5)
    assert (await get(shop.local["payments"], "/secret/2")).status == 403
    code, told = await meshagent(shop, "explain", ticket)
    assert code == 0 and "since    revision" in told and "now      allowed" in told


async def test_the_last_failure_of_two_is_explained(shop):
    await get(shop.local["fake"])
    await seen(shop, reason="tls-identity")
    code, told = await meshagent(shop, "explain", "--last", "web", "fake")
    assert code == 0 and "503 tls-identity" in told and "SANs are" in told.replace("_", " ")


async def meshagent(shop, *arguments):
    """(exit code, what it says) of a command."""
    where = {"MESHAGENT_STORE": shop.mesh.url, "MESHAGENT_API": shop.agent.api}
    command = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "meshagent",
        *arguments,
        env={**os.environ, **where},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await command.communicate()
    return command.returncode, said.decode()


async def seen(shop, count=1, **wanted):
    """At least so many logged requests as are wanted, newest first."""
    found = []

    def there():
        nonlocal found
        found = shop.agent.call("GET", "/v1/requests?" + urlencode(wanted))["requests"]
        return len(found) >= count

    await eventually(there, 5, str(wanted))
    return found


async def hang_up(reader, writer):
    await reader.read(100)
    writer.close()


async def reset(reader, writer):
    """Ends it as a host does on which nobody knows of it, in the middle of the handshake."""
    await reader.read(1)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def close(server):
    server.close()


async def impostors(mesh, stack):
    """Instances in the catalog behind which somebody else listens."""
    honest, other = Forger(mesh.directory, mesh.directory / "ca"), Forger(mesh.directory)
    shown = {
        "fake": honest.service("somebody"),
        "stale": honest.sign(uri("stale"), ends=timedelta(minutes=-5)),
        "alien": other.service("alien"),
        "picky": honest.service("picky"),
    }
    lease = await mesh.store.lease(timedelta(minutes=5))
    for name, identity in {**shown, "plain": None, "curt": None}.items():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if identity else None
        if context:
            context.load_cert_chain(identity.path)
            context.set_alpn_protocols(["h2"])
        if name == "picky":  # it believes another root than callers have theirs from
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=other.root.public_bytes(serialization.Encoding.PEM).decode())
        answers = reset if name == "curt" else hang_up
        server = await asyncio.start_server(answers, "127.0.0.1", free_port(), ssl=context)
        stack.push_async_callback(close, server)
        port = server.sockets[0].getsockname()[1]
        instance = Instance(service=name, host="vm-9", id=name, address="127.0.0.1", port=port, protocol="http")
        await mesh.store.commit([put_instance(KEYS, instance, lease.id)])
