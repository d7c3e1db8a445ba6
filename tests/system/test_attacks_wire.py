"""Attacks below the request (attack tests 7 to 9, 11, 53): framing, protocols, floods, and what lands in the logs."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

import psutil
import pytest
import pytest_asyncio

from tests.system.apps import Caller, get, raw
from tests.system.attacked import (
    NO_ADMIN,
    ONLY_REPORTS,
    STOPPED,
    UNJUDGED,
    allow_web,
    attacked_mesh,
    both_ways,
    request,
    statuses,
)
from tests.system.live import eventually, free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop():
    """A mesh of its own; every test says itself what is allowed."""
    async with attacked_mesh() as shop:
        yield shop


GET = b"GET /reports/hidden HTTP/1.1\r\nhost: app\r\n\r\n"
ADMIN = b"GET /admin HTTP/1.1\r\nhost: app\r\n\r\n"


async def test_attack_07_smuggling_every_request_is_judged_and_nothing_hidden_reaches_the_app(shop):
    await allow_web(shop, {"action": "allow", "http": {"path_prefix": "/reports"}})
    body = b"0\r\n\r\n" + ADMIN
    chunked = b"transfer-encoding: chunked"
    attempts = {
        "CL and TE": request(b"/reports", b"content-length: %d" % len(body), chunked, method=b"POST") + body,
        "TE and CL": request(b"/reports", chunked, b"content-length: 4", method=b"POST") + b"0\r\n\r\n" + ADMIN,
        "two CL": request(b"/reports", b"content-length: 0", b"content-length: %d" % len(ADMIN), method=b"POST")
        + ADMIN,
        "CL list": request(b"/reports", b"content-length: 0, 0", method=b"POST") + ADMIN,
        "CL sign": request(b"/reports", b"content-length: +0", method=b"POST") + ADMIN,
        "CL hex": request(b"/reports", b"content-length: 0x0", method=b"POST") + ADMIN,
        "CL negative": request(b"/reports", b"content-length: -1", method=b"POST") + ADMIN,
        "TE list": request(b"/reports", b"transfer-encoding: chunked, identity", method=b"POST") + body,
        "TE twice": request(b"/reports", chunked, b"transfer-encoding: identity", method=b"POST") + body,
        "TE x": request(b"/reports", b"transfer-encoding: xchunked", method=b"POST") + body,
        "TE tab": request(b"/reports", b"transfer-encoding:\tchunked", method=b"POST") + b"0\r\n\r\n" + ADMIN,
        "TE space": request(b"/reports", b"transfer-encoding : chunked", method=b"POST") + b"0\r\n\r\n" + ADMIN,
        "chunk size": request(b"/reports", chunked, method=b"POST") + b"0x0\r\n\r\n" + ADMIN,
        "chunk sign": request(b"/reports", chunked, method=b"POST") + b"-1\r\n\r\n" + ADMIN,
        "chunk overflow": request(b"/reports", chunked, method=b"POST") + b"1" + b"0" * 16 + b"\r\n\r\n" + ADMIN,
        "chunk extension": request(b"/reports", chunked, method=b"POST") + b"0;a=\n" + b"\r\n\r\n" + ADMIN,
        "trailer": request(b"/reports", chunked, method=b"POST") + b"0\r\nhost: evil\r\nx-a: b\r\n\r\n" + ADMIN,
        "bare CR": request(b"/reports", b"x: a\rGET /admin HTTP/1.1") + ADMIN,
        "bare LF": b"GET /reports HTTP/1.1\nhost: app\n\n" + ADMIN,
        "HTTP/0.9": b"GET /admin\r\n" + ADMIN,
        "upgrade": request(b"/reports", b"connection: upgrade", b"upgrade: h2c", b"http2-settings: AAMAAABkAAQ")
        + ADMIN,
    }
    for kind, data in attempts.items():
        _, reached = await both_ways(shop, data, 0.15)
        assert all(head.split(" ")[1].startswith("/reports") for head in reached), (kind, reached)
        lines = [line for head in reached for line in head.split("\r\n")]
        assert not any(line.startswith(("GET /admin", " ")) for line in lines), (kind, reached)


async def test_attack_07_pipelined_requests_are_judged_one_by_one(shop):
    """To the mTLS port Envoy leaves what is pipelined behind a refusal unanswered; sidecars speak HTTP/2 there."""
    await allow_web(shop, {"action": "allow", "http": {"path_prefix": "/reports"}})
    before = len(shop.payments.seen)
    data = request(b"/reports") + ADMIN + GET
    assert statuses(await raw(shop.local["web", "payments"], data, 1.0)) == [200, 403, 200]
    assert statuses(await shop.web.everything(data, wait=1.0))[:2] == [200, 403]
    assert all(head.startswith("GET /reports") for head in shop.payments.seen[before:])


async def test_attack_07_a_body_that_looks_like_a_request_stays_a_body(shop):
    await allow_web(shop, {"action": "allow", "http": {"path_prefix": "/reports"}})
    before = len(shop.payments.seen)
    answer = await shop.web.send(request(b"/reports", b"content-length: %d" % len(ADMIN), method=b"POST") + ADMIN)
    assert answer.status == 200 and answer.body.endswith(ADMIN)
    assert len(shop.payments.seen) == before + 1


async def test_attack_08_connect_h2c_http_1_0_trace_and_odd_methods_only_as_the_rule_says(shop):
    await allow_web(shop, *ONLY_REPORTS)
    for method in (b"POST", b"TRACE", b"PURGE", b"HEAD", b"get", b"GETX", b"CONNECT", b"PRI", b"OPTIONS"):
        answered, reached = await both_ways(shop, request(b"/reports", b"connection: close", method=method))
        assert not reached and set(answered) <= {0, 400, 403, 404}, (method, answered)  # HEAD: no body comes
    for target in (b"payments:443", b"127.0.0.1:22", b"/reports"):
        answered, reached = await both_ways(shop, request(target, method=b"CONNECT"))
        assert not reached and set(answered) <= {400, 403, 404}, (target, answered)
    override = request(b"/reports", b"x-http-method-override: DELETE", b"connection: close")
    answered, reached = await both_ways(shop, override)  # a header is the app's to believe or not, as the docs say
    assert answered == [200, 200] and all(head.startswith("GET ") for head in reached)
    upgrades = (b"h2c", b"foo", b"TLS/1.0", b"connect-udp")
    for upgrade in upgrades:
        data = request(b"/admin", b"connection: upgrade", b"upgrade: " + upgrade)
        answered, reached = await both_ways(shop, data)
        assert not reached and 101 not in answered, (upgrade, answered)
    websocket = (b"connection: upgrade", b"upgrade: websocket", b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==")
    answered, reached = await both_ways(shop, request(b"/admin", *websocket))
    assert not reached and set(answered) == {403}, answered


async def test_attack_08_http_1_0_from_a_peer_is_refused_and_from_the_local_app_is_judged(shop):
    await allow_web(shop, *ONLY_REPORTS)
    assert statuses(await shop.web.everything(b"GET /reports HTTP/1.0\r\nhost: a\r\n\r\n", wait=0.3)) == [426]
    port = shop.local["web", "payments"]
    assert statuses(await raw(port, b"GET /admin HTTP/1.0\r\n\r\n", 0.5)) == [403]
    assert statuses(await raw(port, b"GET /reports HTTP/1.0\r\n\r\n", 0.5)) == [200]


def fields(path="/", method="GET", authority="app", **more):
    return [(":method", method), (":path", path), (":scheme", "https"), (":authority", authority), *more.items()]


async def test_attack_09_http_2_gets_the_same_verdicts(shop):
    await allow_web(shop, *NO_ADMIN)
    for path in (*STOPPED, *UNJUDGED):
        one, two = await shop.web.get(path), await shop.web.http2(fields(path))
        verdict = two if isinstance(two, str) else two.status
        assert verdict == one.status or (one.status in (400, 403, 404) and verdict != 200), (path, one.status, verdict)


async def test_attack_09_http_2_odd_fields_do_not_pass(shop):
    await allow_web(shop, *ONLY_REPORTS)
    assert (await shop.web.http2(fields("/reports"))).status == 200
    before = len(shop.payments.seen)
    pseudo = fields("/reports")
    attempts = [
        fields("/admin", authority="app", host="other"),
        fields("reports"),
        fields(""),
        fields("*"),
        fields("/reports", method="get"),
        fields("/reports", method="GET /admin HTTP/1.1\r\nx: y"),
        fields("/reports /admin"),
        fields("/reports\r\nx-role: admin"),
        fields("/reports\x00/../admin"),
        [*pseudo, (":path", "/admin")],
        [*pseudo, (":method", "DELETE")],
        [("x-a", "b"), *pseudo],
        [*pseudo[:3], (":unknown", "x")],
        [*pseudo, ("x-role", "a\r\nx-admin: 1")],
        [*pseudo, ("x-role", "a\x00")],
        [*pseudo, ("x role", "a")],
        [*pseudo, ("X-Role", "a")],
        [*pseudo, ("x_role", "a")],
        [*pseudo, ("connection", "keep-alive")],
        [*pseudo, ("transfer-encoding", "chunked")],
        [*pseudo, ("upgrade", "h2c")],
        [(":method", "CONNECT"), (":authority", "127.0.0.1:22")],
        [(":method", "CONNECT"), (":protocol", "websocket"), *fields("/admin")[1:]],
        [(":method", "CONNECT"), (":protocol", "connect-ip"), *fields("/reports")[1:]],
        [pair for pair in pseudo if pair[0] != ":path"],
        [pair for pair in pseudo if pair[0] != ":method"],
    ]
    for headers in attempts:
        answer = await shop.web.http2(headers)
        assert isinstance(answer, str) or answer.status in (400, 403, 404), (headers, answer.status, answer.text)
    assert shop.payments.seen[before:] == []


async def test_attack_09_http_2_a_body_of_another_length_than_said_is_not_a_second_request(shop):
    await allow_web(shop, *ONLY_REPORTS, {"action": "allow", "http": {"methods": ["POST"], "path_prefix": "/reports"}})
    for length in ("0", "1"):
        before = len(shop.payments.seen)
        with suppress(TimeoutError):
            await shop.web.http2([*fields("/reports", "POST"), ("content-length", length)], ADMIN)
        assert not any("/admin" in head.split("\r\n")[0] for head in shop.payments.seen[before:]), length


async def test_attack_11_floods_and_slow_senders_cost_the_others_nothing_and_envoy_little(shop):
    await allow_web(shop)
    envoy = psutil.Process(shop.agent.envoy_pid())
    port = shop.agent.inbound_port
    caller = Caller(shop.local["web", "payments"])
    assert (await caller.get()).status == 200
    before = envoy.memory_info().rss
    seen = len(shop.payments.seen)
    many = b"".join(b"x-%d: y\r\n" % number for number in range(10_000))
    for flood in (many, b"x: " + b"y" * 80_000 + b"\r\n", b"x: y\r\n" * 150):
        for received in await asyncio.gather(*(shop.web.everything(request(b"/", flood), wait=1.0) for _ in range(5))):
            assert set(statuses(received)) <= {400, 431}, received[:200]
    assert len(shop.payments.seen) == seen
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(500)]
    idle += [await asyncio.open_connection("127.0.0.1", shop.local["web", "payments"]) for _ in range(500)]
    slow = idle[500:600]
    unfinished = b"GET / HTTP/1.1\r\nhost: a\r\nx: "
    for letter in unfinished:
        for _, writer in slow:
            writer.write(bytes([letter]))
        answers = [await caller.get(timeout=1.0) for _ in range(5)]
        assert all(answer.status == 200 for answer in answers)
    grown = envoy.memory_info().rss - before
    assert len(shop.payments.seen) == seen + 5 * len(unfinished)
    assert grown < 64 << 20, grown
    slow[0][1].write(b"\r\n\r\n")  # an app takes its time; who is outside is cut: test_gateway.py
    async with asyncio.timeout(2):
        assert b"200 OK" in await slow[0][0].read(4096)
    for _, writer in idle:
        writer.transport.abort()
    caller.close()


NASTY = {
    "newline escaped": "/log-1/%0a%0d{}",
    "quotes": '/log-2/"status":200,"x":"',
    "backslash": "/log-3/\\\\n\\",
    "ansi": "/log-4/%1b[31mred",
    "json end": '/log-5/"}}',
    "html": "/log-6/<script>",
    "unicode": "/log-7/%e2%80%a8%u2028",
}


@pytest.mark.parametrize("host", ["a@b", "", "a@b:80"])
async def test_attack_11_a_malformed_request_ends_nobody_elses(shop, host):
    """All requests of a caller to one instance share an HTTP/2 connection."""
    await allow_web(shop)
    port = shop.local["web", "payments"]
    assert (await get(port)).status == 200
    await asyncio.sleep(1.5)  # a connection from when web was denied is drained for a second
    shop.payments.delay = 0.4
    try:
        others = [asyncio.create_task(get(port)) for _ in range(5)]
        await asyncio.sleep(0.1)
        bad = await Caller(port).send(request(b"/malformed", host=host.encode()))
        assert bad.status in (400, 502, 503)
        assert [(await each).status for each in others] == [200] * 5
    finally:
        shop.payments.delay = 0.0
    assert not any("/malformed" in head for head in shop.payments.seen)


@pytest.mark.parametrize("side", ["peer", "app"])
async def test_attack_53_no_request_writes_a_second_line_or_field_into_a_log(shop, side):
    """Refused requests are logged, and what is in them stays inside one JSON string of one line."""
    await shop.mesh.applied(await shop.mesh.intend("payments"))
    log = shop.agent.directory / "data" / "access.log"
    start = log.stat().st_size
    forged = b'x"}\n{"event": "forged"'
    odd = b'x-request-id: a"}{"status":200,"forged":"\\n\\u001b[31m\xff\xfe'  # what HTTP lets through

    async def send(data):
        if side == "peer":
            await shop.web.everything(data, wait=1.0)
        else:
            await raw(shop.local["web", "payments"], data, 1.0)

    sent = []
    for path in NASTY.values():
        target = f"{path}-{side}".encode()
        sent.append(request(target, odd, b"connection: close"))
        sent.append(request(target, b"connection: close", host=b"h,forged=1"))
        sent.append(request(target, b"user-agent: \x1b[2J" + forged.replace(b"\n", b""), b"connection: close"))
    for evil in (b"\n", b"\r", b"\x00", b"\x1b[31m", b"\x85", b"\xff", b'"'):
        sent.append(request(b"/log-8/" + evil + forged.replace(b"\n", b""), b"connection: close"))
        sent.append(request(b"/log-9", b"x: a" + evil + b"b", b"connection: close", host=b"h" + evil))
        sent.append(request(b"/log-10", b"connection: close", method=b"G" + evil + b"ET"))
    await asyncio.gather(*(send(each) for each in sent))
    last = f"/log-last-{side}"
    await send(request(last.encode(), b"connection: close"))
    await eventually(lambda: last in log.read_text(), 15)
    lines = log.read_bytes()[start:].split(b"\n")
    assert lines.pop() == b"" and len(lines) > 10
    logged = {number for number in range(1, 8) if f"/log-{number}/".encode() in b"".join(lines)}
    assert logged == {1, 2, 3, 4, 5, 6, 7}
    wanted = {
        "time",
        "source",
        "flags",
        "duration_ms",
        "bytes_received",
        "bytes_sent",
        "remote",
        "server_name",
        "status",
    }
    wanted |= {"details", "method", "path", "authority", "request_id", "service", "side"}
    wanted |= {
        "destination",
        "rule",
        "ticket",
        "far_ticket",
        "route",
        "refused",
        "instance",
        "subset",
        "failure",
        "shadow",
    }
    for line in lines:
        assert all(0x20 <= byte < 0x7F or byte >= 0x80 for byte in line), line
        event = json.loads(line, object_pairs_hook=_once)
        assert set(event) <= wanted, event
        assert event["status"] is None or event["status"] in (0, 400, 403, 404, 426), event
    await eventually(lambda: last in shop.agent.log.read_text(), 5)
    for line in shop.agent.log.read_bytes().splitlines():
        event = json.loads(line, object_pairs_hook=_once)
        assert event["event"] != "forged" and b"\x1b" not in line, line


def _once(pairs):
    assert len({key for key, _ in pairs}) == len(pairs), pairs
    return dict(pairs)


async def test_attack_53_what_a_definition_says_of_itself_stays_one_line(shop):
    evil = 'x"}\n{"event":"forged"}\n\x1b[31m\u2028'
    answer = await asyncio.to_thread(
        shop.agent.call, "PUT", "/v1/services", {"name": "meta", "port": free_port(), "meta": {"a" + evil: evil}}
    )
    assert answer["http"] in (200, 422)
    answer = await asyncio.to_thread(shop.agent.call, "PUT", "/v1/services", {"name": evil, "port": 1})
    assert answer["http"] == 422
    assert all(isinstance(json.loads(line), dict) for line in shop.agent.log.read_bytes().splitlines())
    assert not shop.agent.events("forged") and b"\x1b" not in shop.agent.log.read_bytes()
