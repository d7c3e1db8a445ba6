"""Traces: web calls api, api calls db, and each span leads to the one before it."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import asynccontextmanager, suppress

from tests.system.apps import Caller, HttpApp
from tests.system.live import eventually, free_port, live_mesh
from tests.system.spans import Span, collecting

CALLER = "00f067aa0ba902b7"  # the span of whoever calls web's proxy
CARRIED = ("traceparent", "tracestate")


class Middle(HttpApp):
    """An app that calls the next one for each request and hands the trace on, as every app in a trace has to."""

    def __init__(self, port: int, onward: int) -> None:
        super().__init__(port, "api")
        self.onward = onward

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                self.seen.append(head)
                lines = (line for line in head.split("\r\n") if line.partition(":")[0].lower() in CARRIED)
                caller = Caller(self.onward)
                answer = await caller.get("/rows", headers="".join(f"{line}\r\n" for line in lines))
                caller.close()
                writer.write(b"HTTP/1.1 %d Said\r\ncontent-length: 0\r\n\r\n" % answer.status)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def chain():
    """(mesh, agent, collector, db, the port on which web finds api)."""
    to_api, to_db = free_port(), free_port()
    async with (
        collecting() as spans,
        live_mesh() as mesh,
        HttpApp(free_port(), "db") as db,
        Middle(free_port(), to_db) as api,
    ):
        agent = await mesh.agent()
        await agent.up(name="db", port=db.port, protocol="http")
        calls = [{"service": "db", "local_port": to_db}]
        await agent.up(name="api", port=api.port, protocol="http", upstreams=calls)
        calls = [{"service": "api", "local_port": to_api}]
        await agent.up(name="web", port=free_port(), protocol="http", upstreams=calls)
        await mesh.intend("api", web="allow")
        await mesh.applied(await mesh.intend("db", api="allow"))
        yield mesh, agent, spans, db, to_api


async def asked(port: int, path: str = "/", headers: str = "") -> int:
    caller = Caller(port)
    try:
        return (await caller.get(path, headers=headers)).status
    finally:
        caller.close()


async def joined(spans, port: int, sides: set[str], path: str = "/") -> dict[str, Span]:
    """The spans of one call, once calls have spans on just these sides. Old connections go on for a moment as they were.

    Envoy sends spans when it has five, or after five seconds: so there are some calls at a time.
    """
    found: dict[str, Span] = {}
    async with asyncio.timeout(15):
        while set(found) != sides:
            caller, traces = Caller(port), [os.urandom(16).hex() for _ in range(6)]
            for trace in traces:
                answer = await caller.get(path, headers=f"traceparent: 00-{trace}-{CALLER}-01\r\n")
                assert answer.status == 200
            caller.close()
            with suppress(AssertionError):
                await eventually(lambda trace=traces[0]: set(spans.of(trace)) == sides, 0.7)
            found = spans.of(traces[0])
    return found


async def test_calls_join_into_one_trace_and_rules_and_services_take_themselves_out_of_traces_and_logs():
    async with chain() as (mesh, agent, spans, db, to_api):
        await eventually(lambda: b"out/web/api" in agent.admin("/clusters"), 5)
        assert await asked(to_api) == 200
        assert "traceparent" not in db.seen[-1]
        given = [
            each for each in json.loads(agent.admin("/config_dump"))["configs"] if "Bootstrap" not in each["@type"]
        ]
        assert given and "opentelemetry" not in json.dumps(given) and "otlp" not in json.dumps(given)

        tracing = {"otlp": spans.address, "sampling": 100}
        await mesh.apply({"kind": "mesh", "name": "mesh", "tracing": tracing, "access_log": {"only": "all"}})
        quiet = {"tracing": {"sampling": 0}, "access_log": {"only": "none"}}
        rules = [{"name": "quiet", "match": {"path_prefix": "/quiet"}, **quiet}, {"name": "rest"}]
        await mesh.applied(await mesh.apply({"kind": "route", "name": "api", "rules": rules}))
        found = await joined(spans, to_api, {"web>api", ">api", "api>db", ">db"}, "/secret?token=1")
        assert found["web>api"].parent == CALLER
        for before, after in (("web>api", ">api"), (">api", "api>db"), ("api>db", ">db")):
            assert found[after].parent == found[before].id
        assert found["web>api"].tags["mesh.route"] == "rest" and found[">db"].tags["mesh.instance"] == "db"
        assert "token" not in str(found)

        before = len(spans.spans)
        assert [await asked(to_api, "/quiet") for _ in range(12)] == [200] * 12
        assert await asked(to_api, "/a%2Fb") == 400  # it meets no route
        assert await asked(to_api, "/end") == 200
        await eventually(lambda: any(line["path"] == "/end" for line in logged(agent, "outbound to api")), 5)
        lines = [line for line in logged(agent, "outbound to api") if line["path"] != "/secret"]
        assert [line["status"] for line in lines] == [400, 200]
        trace = found[">db"].trace
        assert any(line["trace_id"] == trace for line in logged(agent, "outbound to api"))
        assert sum(line["path"] == "/quiet" for line in logged(agent, "inbound")) == 12

        await mesh.applied(await mesh.apply({"kind": "service", "name": "db", "tracing": {"sampling": 0}}))
        async with asyncio.timeout(15):
            found = await joined(spans, to_api, {"web>api", ">api"})
            while not any(f"{found['>api'].trace}-{found['>api'].id}-01" in head for head in db.seen):
                found = await joined(spans, to_api, {"web>api", ">api"})
        assert all(span.tags.get("mesh.route") != "quiet" for span in spans.spans[before:])


def logged(agent, side: str) -> list[dict]:
    return [line for line in agent.events("request_logged") if line["side"] == side]
