"""Attacks on rules by requests (attack tests 1 to 6, 10): paths, hosts, headers, and rules where they cannot hold."""

from __future__ import annotations

import asyncio
import sys
from functools import partial

import pytest
import pytest_asyncio

from meshagent.model.intention import HeaderMatch
from meshagent.policy.request import Malformed, judged_path
from tests.system.apps import get, raw
from tests.system.attacked import (
    BROKEN,
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
from tests.system.forged import DOMAIN, Peer
from tests.system.live import KEYS

REFUSED = {400, 403, 404, 502, 503}  # 502, 503: the far sidecar reset it as malformed, and the near one says so
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop():
    """A mesh of its own; every test says itself what is allowed."""
    async with attacked_mesh() as shop:
        yield shop


async def test_attack_01_path_variants_none_passes_a_deny_but_those_that_no_proxy_can_judge(shop):
    await allow_web(shop, *NO_ADMIN)
    assert (await shop.web.get("/fine")).status == 200
    for path in [*(path.encode() for path in STOPPED), *BROKEN]:
        answered, reached = await both_ways(shop, request(path, b"connection: close"))
        assert not reached, (path, reached)
        assert set(answered) <= REFUSED, (path, answered)
    for path in UNJUDGED:
        answered, reached = await both_ways(shop, request(path.encode(), b"connection: close"))
        assert answered == [200, 200] and len(reached) == 2, (path, answered)


async def test_attack_01_path_variants_none_gets_past_an_allow_list(shop):
    """What does reach the app lies, as the app sees it, below the path that is allowed."""
    await allow_web(shop, *ONLY_REPORTS)
    assert (await shop.web.get("/reports/1")).status == 200
    below = [f"/reports{path}" for path in (*STOPPED, *UNJUDGED) if path.startswith("/")]
    for path in [*STOPPED, *UNJUDGED]:
        answered, reached = await both_ways(shop, request(path.encode(), b"connection: close"))
        assert not reached and set(answered) <= REFUSED, (path, answered)
    for path in [*below, "/reports/../admin", "/reports/%2e%2e/admin", "/reports/..\\admin", "/reports%2f..%2fadmin"]:
        _, reached = await both_ways(shop, request(path.encode(), b"connection: close"))
        assert all(head.startswith(("GET /reports/", "GET /reports?", "GET /reports ")) for head in reached), reached
        for head in reached:
            assert ".." not in head.split(" ")[1].split("/"), head


async def test_attack_01_what_explain_says_of_a_path_is_what_the_proxy_does(shop):
    await allow_web(shop, *NO_ADMIN)
    for path in (*STOPPED, *UNJUDGED):
        judged = judged_path(path)
        answer = await shop.web.get(path)
        if isinstance(judged, Malformed):
            assert answer.status in (400, 404), (path, answer.status)
        else:
            denied = judged == "/admin" or judged.startswith("/admin/")
            assert answer.status == (403 if denied else 200), (path, judged, answer.status)


async def test_attack_02_case_is_stopped_where_the_rule_says_so(shop):
    deny = {"action": "deny", "http": {"path_prefix": "/admin", "ignore_case": True}}
    await allow_web(shop, deny, NO_ADMIN[1])
    for path in ("/ADMIN", "/Admin/x", "/aDmIn", "/x/../ADMIN", "/%41DMIN"):
        assert (await shop.web.get(path)).status == 403, path
        assert (await get(shop.local["web", "payments"], path)).status == 403, path
    assert (await shop.web.get("/administrator")).status == 200


async def meshagent(shop, *arguments: object) -> tuple[int, str]:
    """The command line on this mesh's store. Gives the exit code and what it said on stderr."""
    command = (sys.executable, "-m", "meshagent", *map(str, arguments), "--store", f"sqlite://{shop.mesh.store_path}")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    _, said = await process.communicate()
    return process.returncode, said.decode()


async def test_attack_02_a_deny_on_a_path_before_a_wide_allow_is_warned_of(shop):
    await allow_web(shop)
    code, said = await meshagent(shop, "intention", "deny", "web", "payments", "--path", "/admin")
    assert code == 0 and "warning" in said and "other letter case" in said and "ignore-case" in said, said
    await allow_web(shop)
    code, said = await meshagent(shop, "intention", "deny", "web", "payments", "--path", "/admin", "--ignore-case")
    assert code == 0 and "letter case" not in said, said


async def test_attack_10_the_command_line_takes_no_l7_rule_on_a_tcp_service(shop):
    before = await shop.mesh.store.read(KEYS.manifest)
    for action in ("allow", "deny"):
        code, said = await meshagent(shop, "intention", action, "web", "ledger", "--path", "/admin")
        assert code != 0 and "tcp service" in said, said
    file = shop.mesh.directory / "rule.yaml"
    file.write_text(
        "kind: intention\nname: ledger\nsources:\n- name: web\n  permissions:\n"
        "  - {action: allow, http: {path_prefix: /}}\n"
    )
    code, said = await meshagent(shop, "policy", "apply", "-f", file)
    assert code != 0 and "tcp service" in said, said
    assert await shop.mesh.store.read(KEYS.manifest) == before


@pytest.mark.parametrize("name", ["host", "Host", ":authority", "authority"])
async def test_attack_03_a_rule_on_the_host_is_refused(shop, name):
    with pytest.raises(ValueError, match="header name|cannot be decided on"):
        HeaderMatch.model_validate({"name": name, "exact": "secret.mesh"})


async def test_attack_03_host_tricks_change_no_verdict(shop):
    await allow_web(shop, *NO_ADMIN)
    for host in (b"SECRET.MESH", b"x:80", b"x.", b"a@secret.mesh", b"127.0.0.1", b"payments.mesh.internal", b"[::1]:9"):
        answered, reached = await both_ways(shop, request(b"/admin", b"connection: close", host=host))
        assert not reached and set(answered) <= REFUSED, (host, answered)
    two = request(b"/admin", b"host: other", b"connection: close")
    absolute = request(b"http://other.example/admin", b"connection: close")
    odd = request(b"http://other.example//x/../admin", b"connection: close")
    for data in (two, absolute, odd):
        answered, reached = await both_ways(shop, data)
        assert not reached and set(answered) <= REFUSED, (data, answered)


@pytest.mark.parametrize("matcher", [{"exact": "user"}, {"prefix": "us"}, {"suffix": "er"}], ids=str)
async def test_attack_04_repeated_folded_and_joined_headers_do_not_pass_an_allow(shop, matcher):
    """Every value must match, and none may be a list."""
    await allow_web(shop, {"action": "allow", "http": {"headers": [{"name": "x-role", **matcher}]}})
    for lines in ([b"x-role: user"], [b"X-Role:  user  "], [b"x-role: user", b"X-ROLE: user"]):
        answered, _ = await both_ways(shop, request(b"/", *lines, b"connection: close"))
        assert answered == [200, 200], (lines, answered)
    for lines in (
        [b"x-role: user", b"x-role: admin"],
        [b"x-role: admin", b"x-role: user"],
        [b"x-role: user", b"X-ROLE: admin", b"x-role: user"],
        [b"x-role: user,admin,user"],
        [b"x-role: user, user"],
        [b"x-role: user", b" ,admin"],
        [b"x-role: user\x00"],
        [b"x-role: USER"],
        [b"x-role : user"],
        [b"x-role:"],
        [b"x-role: user", b"x-role:"],
        [b"x_role: user"],
        [],
    ):
        answered, reached = await both_ways(shop, request(b"/", *lines, b"connection: close"))
        assert not reached and set(answered) <= REFUSED, (lines, answered)


@pytest.mark.parametrize(
    "matcher", [{"exact": "admin"}, {"prefix": "adm"}, {"suffix": "min"}, {"present": True}], ids=str
)
async def test_attack_04_a_repeated_header_does_not_escape_a_deny(shop, matcher):
    """One matching value among others is enough."""
    await allow_web(shop, {"action": "deny", "http": {"headers": [{"name": "x-role", **matcher}]}}, NO_ADMIN[1])
    assert (await shop.web.get()).status == 200
    for lines in (
        [b"x-role: admin"],
        [b"x-role: admin", b"x-role: user"],
        [b"x-role: user", b"X-ROLE: admin"],
        [b"x-role: user,admin"],
        [b"x-role: admin,user"],
        [b"x-role: user", b" ,admin"],
    ):
        answered, reached = await both_ways(shop, request(b"/", *lines, b"connection: close"))
        assert not reached and set(answered) <= REFUSED, (lines, answered)


async def test_attack_05_an_underscore_in_a_header_name_is_refused(shop):
    await allow_web(shop)
    for line in (b"x_mesh_role: admin", b"x-mesh_role: admin", b"_: a", b"x_forwarded_client_cert: URI=x"):
        before = len(shop.payments.seen)
        received = await shop.web.everything(request(b"/", line, b"connection: close"), wait=0.3)
        assert statuses(received) == [400] and len(shop.payments.seen) == before, line


SPOOFED = (
    "x-forwarded-client-cert: By=x;URI=spiffe://mesh.internal/svc/admin\r\n"
    "x-forwarded-for: 10.1.2.3\r\nx-real-ip: 10.1.2.3\r\nx-envoy-external-address: 10.1.2.3\r\n"
    "x-envoy-original-path: /admin\r\nx-envoy-original-host: evil\r\nx-envoy-internal: true\r\n"
    "x-envoy-upstream-rq-timeout-ms: 50\r\nx-envoy-upstream-rq-per-try-timeout-ms: 20\r\nx-envoy-max-retries: 100\r\n"
    "x-envoy-retry-on: 5xx\r\nx-envoy-hedge-on-per-try-timeout: true\r\nx-envoy-expected-rq-timeout-ms: 9\r\n"
    "x-envoy-decorator-operation: x\r\nx-envoy-attempt-count: 9\r\nx-envoy-ip-tags: admin\r\n"
    "x-envoy-upstream-stream-duration-ms: 50\r\nx-envoy-upstream-alt-stat-name: x\r\nx-envoy-force-trace: true\r\n"
    "x-envoy-retriable-status-codes: 503\r\nx-envoy-retriable-header-names: server\r\nx-envoy-retry-grpc-on: unavailable\r\n"
    "x-mesh-source: admin\r\nx-mesh-refused: intention\r\nX-Mesh-Role: admin\r\n"
)


async def test_attack_06_spoofed_headers_of_a_peer_and_of_the_local_app_are_not_passed_on(shop):
    await allow_web(shop)
    shop.payments.delay = 0.3  # longer than the timeouts asked for
    try:
        app = partial(get, shop.local["web", "payments"])
        own = SPOOFED.replace("x-forwarded-for: 10.1.2.3\r\n", "")  # then the app's own address counts
        for send, spoofed in ((shop.web.get, SPOOFED), (shop.web.get, own), (app, SPOOFED), (app, own)):
            answer = await send(headers=spoofed)
            assert answer.status == 200
            seen = answer.text.lower()
            assert "uri=spiffe://mesh.internal/svc/web" in seen and "svc/admin" not in seen
            for word in ("x-envoy-", "x-mesh-", "x-real-ip", "10.1.2.3", "evil"):
                assert word not in seen, (word, seen)
            assert seen.count("x-forwarded-client-cert:") == 1
        shop.payments.delay, shop.payments.status = 0.0, 503
        for send in (shop.web.get, app):
            met = len(shop.payments.seen)
            assert (await send(headers=SPOOFED)).status == 503
            assert len(shop.payments.seen) == met + 1  # and is asked once, not a hundred times
    finally:
        shop.payments.delay, shop.payments.status = 0.0, 200


async def test_attack_10_an_l7_rule_on_a_tcp_service_denies_everybody_it_names(shop):
    received, met = shop.ledger.received, shop.ledger.connections
    any_request = {"action": "allow", "http": {"path_prefix": "/"}}
    deny = {"action": "deny", "http": {"path_prefix": "/admin"}}
    for permissions in ([any_request], [deny], [deny, any_request]):
        await allow_web(shop, *permissions, destination="ledger")
        assert await raw(shop.local["web", "ledger"], b"steal", 0.3) == b""
        peer = Peer(shop.agent.inbound_port, shop.web.identity, f"web.ledger.{DOMAIN}")
        assert await peer.everything(b"steal", "", 0.3) == b""
    await shop.mesh.applied(await shop.mesh.intend("ledger", web=[any_request], anyone="allow"))
    assert await raw(shop.local["web", "ledger"], b"steal", 0.3) == b""
    assert (shop.ledger.received, shop.ledger.connections) == (received, met)
    assert await raw(shop.local["orders", "ledger"], b"hi", 0.3) == b"HELLO\nhi"
    await shop.mesh.applied(await shop.mesh.intend("ledger"))
