"""What routes make of requests, seen at the real apps behind the real Envoy."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from contextlib import AsyncExitStack

import pytest
import websockets

from tests.system.apps import Load, get, read_answer
from tests.system.live import free_port
from tests.system.routed import many, routed

pytestmark = pytest.mark.timeout(120)
LIMIT = {"requests_per_second": 1000}


def within_three_sigma(count, share, total):
    return abs(count - total * share) <= 3 * math.sqrt(total * share * (1 - share))


async def test_a_split_gives_each_target_its_share_and_a_change_of_weights_holds_at_once():
    async with routed() as shop:
        ten = {"to": [{"subset": "v1", "weight": 90}, {"subset": "v2", "weight": 10}]}
        await shop.route(ten)
        counts = await many(shop.web, 10_000)
        assert sum(counts.values()) == 10_000 and within_three_sigma(counts["v2"], 0.1, 10_000), counts
        three = [{"subset": "v1", "weight": 2}, {"service": "ledger", "weight": 1}, {"subset": "v2", "weight": 1}]
        await shop.route({"to": three})
        counts = await many(shop.web, 2_000)
        assert counts.keys() == {"v1", "v2", "ledger"} and within_three_sigma(counts["ledger"], 0.25, 2_000), counts


async def test_a_split_leaves_out_what_has_no_instance_unless_it_is_strict():
    async with routed() as shop:
        empty = [{"subset": "v1", "weight": 1}, {"subset": "v9", "weight": 9}, {"service": "nobody", "weight": 9}]
        await shop.route({"match": {"path_prefix": "/strict"}, "to": empty[:2], "strict": True}, {"to": empty})
        assert await many(shop.web, 200) == {"v1": 200}
        counts = await many(shop.web, 200, "/strict", batch=1)
        assert counts.keys() == {"v1", 503} and counts[503] > counts["v1"]
        await shop.route({"to": [{"subset": "v1"}, {"subset": "v2"}]})
        assert (await many(shop.web, 200)).keys() == {"v1", "v2"}
        await shop.agent.down("payments", "p-v2")
        assert await many(shop.web, 200) == {"v1": 200}


async def test_callers_and_their_regions_choose_rules(monkeypatch):
    monkeypatch.setenv("MESHAGENT_HOST_REGION", "eu")
    async with routed() as shop:
        await shop.route(
            {"match": {"sources": ["orders"]}, "to": [{"subset": "v2"}]},
            {"match": {"regions": ["us"]}, "to": [{"service": "ledger"}]},
            {"match": {"regions": ["eu", "asia"]}, "to": [{"subset": "v1"}]},
        )
        assert await many(shop.web, 40) == {"v1": 40}
        assert await many(shop.ports["orders"], 40) == {"v2": 40}


async def test_requests_are_tried_again_as_often_and_for_what_the_rule_says():
    async with routed() as shop:
        retry = {"attempts": 3, "on": ["gateway-error"], "statuses": [418], "backoff": {"base": "1ms", "max": "2ms"}}
        slow = {"attempts": 1, "per_try_timeout": "150ms", "on": ["gateway-error"]}
        one = [{"subset": "v1"}]
        await shop.route(
            {"match": {"path_prefix": "/get"}, "to": one, "retry": retry | {"methods": ["GET"]}},
            {"match": {"path_prefix": "/never"}, "to": one, "retry": {"attempts": 0}},
            {"match": {"path_prefix": "/late"}, "to": one, "retry": slow},
            {"match": {"path_prefix": "/hedged"}, "retry": slow, "hedge": {}, "timeout": "5s"},
            {"match": {"path_prefix": "/short"}, "to": one, "timeout": "100ms"},
            {
                "match": {"path_prefix": "/conflict"},
                "to": one,
                "retry": retry | {"on": ["retriable-4xx"], "statuses": []},
            },
            {"match": {"path_prefix": "/error"}, "to": one, "retry": retry | {"on": ["5xx"], "statuses": []}},
        )
        v1 = shop.apps["v1"]

        async def tries(path, status, method="GET"):
            v1.status = status
            shop.forget()
            answer = await get(shop.web, path, method, "content-length: 0\r\n")
            v1.status = 200
            return answer.status, len(v1.seen)

        assert await tries("/get", 503) == (503, 4)
        assert await tries("/get", 418) == (418, 4)
        assert await tries("/get", 500) == (500, 1)  # no gateway error
        assert await tries("/get", 503, "POST") == (503, 1)
        assert await tries("/never", 503) == (503, 1)
        assert await tries("/conflict", 409) == (409, 4)
        assert await tries("/conflict", 404) == (404, 1)
        assert await tries("/error", 500) == (500, 4)
        assert await tries("/error", 409) == (409, 1)
        v1.delay = 0.4
        began = time.monotonic()
        assert await tries("/late", 200) == (504, 2)
        assert 0.29 <= time.monotonic() - began < 1.5  # Envoy's timers fire up to a millisecond early
        assert await tries("/short", 200) == (504, 1)
        shop.forget()
        answers = [await get(shop.web, "/hedged") for _ in range(6)]
        assert {answer.status for answer in answers} == {200}
        sent = Counter({name: len(shop.seen(name)) for name in ("v1", "v2")})
        assert sent.total() > 6  # the slow one was asked too, and the other answered first


async def test_copies_go_to_another_service_and_nobody_waits_for_their_answers():
    async with routed() as shop:
        shop.apps["shadow"].delay = 0.3
        copies = [{"service": "shadow", "percent": 50}, {"subset": "v2"}]
        await shop.route({"to": [{"subset": "v1"}], "mirror": copies})
        shop.forget()
        began = time.monotonic()
        assert await many(shop.web, 400, "/copied") == {"v1": 400}
        took = time.monotonic() - began
        assert took < 400 * 0.3 / 8
        async with asyncio.timeout(10):
            while len(shop.seen("v2")) < 400:
                await asyncio.sleep(0.02)
        assert within_three_sigma(len(shop.seen("shadow")), 0.5, 400)
        assert all(head.startswith("GET /copied") for head in shop.seen("shadow") + shop.seen("v2"))


async def test_faults_hold_requests_back_and_refuse_them_for_the_share_and_the_headers_that_are_named():
    async with routed() as shop:
        picky = {"abort": {"status": 418}, "headers": [{"name": "x-drill", "exact": "on"}]}
        await shop.route(
            {"match": {"path_prefix": "/held"}, "fault": {"delay": {"duration": "300ms"}}},
            {"match": {"path_prefix": "/some"}, "fault": {"abort": {"percent": 25, "status": 503}}},
            {"match": {"path_prefix": "/drill"}, "fault": picky},
            {"match": {"path_prefix": "/rpc"}, "fault": {"abort": {"grpc_status": 14}}},
        )
        began = time.monotonic()
        assert (await get(shop.web, "/held")).status == 200
        assert 0.29 <= time.monotonic() - began < 1.5  # Envoy's timers fire up to a millisecond early
        counts = await many(shop.web, 1_000, "/some", batch=1)
        assert within_three_sigma(counts[503], 0.25, 1_000), counts
        assert (await get(shop.web, "/drill")).status == 200
        assert (await get(shop.web, "/drill", headers="x-drill: on\r\n")).status == 418
        rpc = await get(shop.web, "/rpc", "POST", "content-type: application/grpc\r\ncontent-length: 0\r\n")
        assert rpc.headers["grpc-status"] == "14"


async def test_requests_are_rewritten_redirected_answered_and_their_headers_changed():
    async with routed() as shop:
        change = {
            "request": {"set": {"x-set": "50% %REQ(:path)%"}, "add": {"x-more": "b"}, "remove": ["x-gone"]},
            "response": {"set": {"x-app": "hidden"}, "add": {"x-added": ""}},
        }
        per_target = [{"subset": "v1", "headers": {"request": {"set": {"x-target": "v1"}}}}]
        regex = {"pattern": "^/user/([^/]+)/(.*)$", "substitution": r"/\2/of/\1"}
        await shop.route(
            {"match": {"path_prefix": "/old", "ignore_case": True}, "rewrite": {"path_prefix": "/new", "host": "else"}},
            {"match": {"path_prefix": "/strip/"}, "rewrite": {"path_prefix": "/"}},
            {"match": {"path_prefix": "/user"}, "rewrite": {"path_regex": regex}},
            {"match": {"path_prefix": "/whole"}, "rewrite": {"path": "/one"}},
            {"match": {"path_prefix": "/moved"}, "redirect": {"path_prefix": "/", "host": "b.test", "status": 308}},
            {"match": {"path_prefix": "/secure"}, "redirect": {"scheme": "https", "port": 8443, "strip_query": True}},
            {"match": {"path_prefix": "/said"}, "respond": {"status": 451, "body": "{}", "content_type": "text/json"}},
            {"match": {"path_prefix": "/headers"}, "headers": change, "to": per_target},
        )

        async def line(path, headers=""):
            return (await get(shop.web, path, headers=headers)).text.split("\r\n")[0].split("\n")[1]

        assert await line("/old/x?y=/old") == "GET /new/x?y=/old HTTP/1.1"
        assert await line("/OLD") == "GET /new HTTP/1.1"
        assert await line("/older") == "GET /older HTTP/1.1"
        assert "host: else" in (await get(shop.web, "/old")).text
        assert await line("/strip/x") == "GET /x HTTP/1.1"
        assert await line("/strip?q") == "GET /?q HTTP/1.1"
        assert await line("/user/ann/bills/7?q") == "GET /bills/7/of/ann?q HTTP/1.1"
        assert await line("/whole/of/it?q") == "GET /one?q HTTP/1.1"
        moved = await get(shop.web, "/moved/x?q")
        assert (moved.status, moved.headers["location"]) == (308, "http://b.test/x?q")
        secure = await get(shop.web, "/secure/x?q")
        assert (secure.status, secure.headers["location"]) == (302, "https://app:8443/secure/x")
        said = await get(shop.web, "/said")
        assert (said.status, said.text, said.headers["content-type"]) == (451, "{}", "text/json")
        changed = await get(shop.web, "/headers", headers="x-set: a\r\nx-more: a\r\nx-gone: a\r\n")
        asked = changed.text.split("\r\n")
        assert "x-set: 50% %REQ(:path)%" in asked and "x-set: a" not in asked
        assert {"x-more: a", "x-more: b"} <= set(asked) or "x-more: a,b" in asked
        assert not any(each.startswith("x-gone") for each in asked)
        assert "x-target: v1" in asked
        assert (changed.headers["x-app"], changed.headers["x-added"]) == ("hidden", "")


async def test_browsers_questions_are_answered_and_a_callers_rate_is_bounded():
    async with routed() as shop:
        cors = {
            "allow_origins": [{"exact": "https://a.test"}, {"regex": r"https://[a-z]+\.b\.test"}],
            "allow_methods": ["GET", "PUT"], "allow_headers": ["x-team"], "expose_headers": ["x-app"],
            "allow_credentials": True, "max_age": "10m",
        }  # fmt: skip
        await shop.route(
            {"match": {"path_prefix": "/web"}, "cors": cors},
            {"match": {"path_prefix": "/few"}, "rate_limit": {"requests_per_second": 0.1, "burst": 5}},
        )
        asking = "access-control-request-method: PUT\r\n"
        answer = await get(shop.web, "/web", "OPTIONS", f"origin: https://x.b.test\r\n{asking}")
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == "https://x.b.test"
        assert answer.headers["access-control-allow-methods"] == "GET,PUT"
        assert answer.headers["access-control-max-age"] == "600"
        assert not shop.seen("v1")[-1].startswith("OPTIONS") if shop.seen("v1") else True
        called = await get(shop.web, "/web", headers="origin: https://a.test\r\n")
        assert called.headers["access-control-expose-headers"] == "x-app"
        stranger = await get(shop.web, "/web", headers="origin: https://c.test\r\n")
        assert "access-control-allow-origin" not in stranger.headers
        counts = await many(shop.web, 24, "/few", batch=1)
        assert counts[429] == 24 - 5, counts
        refused = await get(shop.web, "/few")
        assert (refused.status, refused.headers["x-mesh-refused"]) == (429, "rate-limit")
        assert (await get(shop.ports["orders"], "/few")).status == 200  # each caller has its own
        assert (await get(shop.web, "/many")).status == 200


async def test_a_route_and_a_weight_change_under_load_fail_nothing_and_drain_nothing():
    async with routed() as shop:
        listeners = listener_changes(shop)
        assert told_apart(shop) == {""}  # without rules nothing is counted by them
        async with Load(shop.web, 32, 300) as load, AsyncExitStack() as stack:
            streams = [await stack.enter_async_context(Stream(shop.web)) for _ in range(20)]
            await asyncio.sleep(0.5)
            for step, rule in enumerate(CHANGES):
                began = time.monotonic()
                await shop.route(
                    rule, {"to": [{"subset": "v1", "weight": 99 - step}, {"subset": "v2", "weight": 1 + step}]}
                )
                await asyncio.sleep(0.3)
                assert load.since(began)
            assert [await stream.goes_on() for stream in streams] == [True] * 20
        assert load.failed() == [], load.reasons[:5]
        assert len(load.answers) > 300
        assert listener_changes(shop) == listeners
        assert shop.seen("ledger")
        assert {"rule 0", "rule 1"} <= told_apart(shop)


async def test_a_stream_ends_when_its_time_is_over_though_it_moves():
    async with routed() as shop:
        await shop.route({"match": {"path_prefix": "/stream"}, "max_stream_duration": "600ms"})
        async with Stream(shop.web) as stream:
            began, answer = time.monotonic(), asyncio.create_task(read_answer(stream._reader))
            while not answer.done() and time.monotonic() < began + 5:
                stream._writer.write(b"1\r\na\r\n")
                await asyncio.sleep(0.05)
            assert (await answer).status in (408, 504)
            assert 0.5 < time.monotonic() - began < 4
        await shop.route({"match": {"path_prefix": "/stream"}})
        async with Stream(shop.web) as stream:
            await asyncio.sleep(1.0)
            assert await stream.goes_on()


def told_apart(shop):
    """By which rules web's answers from payments are counted with their class."""
    rows = shop.agent.call("GET", "/v1/traffic")["edges"]
    edge = ("outbound", "web", "payments")
    return {
        row["route"]
        for row in rows
        if (row["side"], row["source"], row["destination"]) == edge and (not row["route"] or row["requests"]["2xx"])
    }


def listener_changes(shop):
    """How often any listener was changed."""
    return shop.agent.admin("/stats?filter=listener_manager.*(modified|in_place|added|removed)").decode()


CHANGES = (
    {"match": {"path_prefix": "/x"}, "to": [{"subset": "v2"}]},
    {"to": [{"service": "ledger"}]},  # a cluster that the proxy did not have
    {"to": [{"service": "shadow"}, {"service": "ledger"}], "timeout": "2s"},
    {
        "to": [{"subset": "v1"}],
        "fault": {"delay": {"percent": 1, "duration": "1ms"}},
        "mirror": [{"service": "shadow"}],
    },
    {"match": {"path_prefix": "/y"}, "cors": {"allow_origins": [{"exact": "https://a"}]}, "rate_limit": LIMIT},
    {"to": [{"subset": "v2"}], "retry": {"attempts": 1}},
)


class Stream:
    """A request whose body never ends: it lives as long as its connection, its stream and the cluster's do."""

    def __init__(self, port):
        self._port = port

    async def __aenter__(self):
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.write(b"POST /stream HTTP/1.1\r\nhost: app\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")
        await self._writer.drain()
        return self

    async def __aexit__(self, *_):
        self._writer.close()

    async def goes_on(self):
        """End the body, and see that the answer holds all of it."""
        self._writer.write(b"1\r\nb\r\n0\r\n\r\n")
        answer = await read_answer(self._reader)
        return answer.status == 200 and answer.body.endswith(b"ab")


async def test_connections_of_a_tcp_service_are_split_and_a_change_leaves_those_that_are_open():
    async with routed("tcp") as shop:
        await shop.route({"to": [{"subset": "v1", "weight": 3}, {"service": "ledger", "weight": 1}]})
        counts = Counter([await greeted(shop.web) for _ in range(200)])
        assert counts.keys() == {"v1", "ledger"} and within_three_sigma(counts["ledger"], 0.25, 200), counts
        reader, writer = await asyncio.open_connection("127.0.0.1", shop.web)
        first = await reader.read(10)
        await shop.route({"to": [{"subset": "v2"}]})
        await asyncio.sleep(0.1)
        assert {await greeted(shop.web) for _ in range(20)} == {"v2"}
        await asyncio.sleep(2.5)  # longer than any drain
        writer.write(b"still")
        assert await reader.read(10) == b"still" and first in (b"v1", b"ledger")
        writer.close()
        await shop.route({"to": [{"subset": "v2"}], "idle_timeout": "500ms"})
        reader, writer = await asyncio.open_connection("127.0.0.1", shop.web)
        began = time.monotonic()
        assert await asyncio.wait_for(reader.read(), 5) == b"v2"  # and the end, since nothing moves
        assert 0.4 < time.monotonic() - began < 4
        writer.close()


async def greeted(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    name = await reader.read(10)
    writer.close()
    return name.decode()


async def test_a_websocket_outlives_the_timeout_of_its_rule_and_ends_when_it_is_idle_for_too_long():
    async with routed() as shop, websockets.serve(echo, "127.0.0.1", free_port()) as server:
        port = server.sockets[0].getsockname()[1]
        await shop.agent.up(name="chat", port=port, protocol="http")
        local = free_port()
        await shop.agent.up(
            name="talker", port=free_port(), protocol="http", upstreams=[{"service": "chat", "local_port": local}]
        )
        await shop.mesh.intend("chat", talker="allow")
        rules = [{"timeout": "500ms", "idle_timeout": "1s"}]
        await shop.mesh.applied(await shop.mesh.apply({"kind": "route", "name": "chat", "rules": rules}))
        async with websockets.connect(f"ws://127.0.0.1:{local}/", proxy=None) as socket:
            for number in range(6):
                await socket.send(str(number))
                assert await socket.recv() == str(number)
                await asyncio.sleep(0.3)
            began = time.monotonic()
            await asyncio.wait_for(socket.wait_closed(), 5)
            assert 0.3 < time.monotonic() - began < 3


async def echo(socket):
    async for text in socket:
        await socket.send(text)
