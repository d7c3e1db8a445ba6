"""What a service document asks of callers' proxies, seen at the apps: balancing, limits, ejection, checks."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager

from tests.system.apps import Caller, HttpApp, get
from tests.system.live import eventually, free_port, live_mesh


@asynccontextmanager
async def shop(instances=3, **settings):
    """payments with so many instances and these settings, and web that may call it. Gives (mesh, agent, apps, local)."""
    async with live_mesh() as mesh, AsyncExitStack() as stack:
        agent = await mesh.agent()
        apps = [await stack.enter_async_context(HttpApp(free_port(), f"p{number}")) for number in range(instances)]
        local = free_port()
        await agent.up(
            name="web", port=free_port(), protocol="http", upstreams=[{"service": "payments", "local_port": local}]
        )
        for app in apps:
            await agent.up(name="payments", id=app.name, port=app.port, protocol="http")
        await mesh.intend("payments", web="allow")
        await mesh.applied(await mesh.apply({"kind": "service", "name": "payments", **settings}))
        await answering(local)
        yield mesh, agent, apps, local


async def answering(local, wait=5.0):
    until = time.monotonic() + wait
    while (await get(local)).status != 200:
        assert time.monotonic() < until
        await asyncio.sleep(0.02)


async def who(local, count, headers="", path="/"):
    """Which apps answered `count` requests on one connection."""
    caller = Caller(local)
    answers = [(await caller.get(path, headers=headers)).headers.get("x-app") for _ in range(count)]
    caller.close()
    return Counter(answers)


async def test_requests_of_one_user_go_to_one_instance_and_all_instances_have_users():
    hash_on = [{"header": "x-user"}, {"cookie": "session", "cookie_ttl": "1h"}]
    async with shop(load_balancer={"policy": "maglev", "hash_on": hash_on}) as (mesh, _, _, local):
        homes = {}
        for user in range(30):
            seen = await who(local, 4, f"x-user: {user}\r\n")
            assert len(seen) == 1
            homes[user] = next(iter(seen))
        assert set(homes.values()) == {"p0", "p1", "p2"}
        first = await get(local)  # no header: the proxy gives a cookie, which leads back
        cookie = first.headers["set-cookie"].partition(";")[0]
        assert cookie.startswith("session=")
        assert await who(local, 5, f"cookie: {cookie}\r\n") == {first.headers["x-app"]: 5}
        by_query = {"policy": "ring_hash", "hash_on": [{"query": "account"}]}
        await mesh.applied(await mesh.apply({"kind": "service", "name": "payments", "load_balancer": by_query}))
        assert len(await who(local, 8, path="/?account=7")) == 1
        assert len({next(iter(await who(local, 1, path=f"/?account={each}"))) for each in range(40)}) == 3


async def test_round_robin_is_even_and_random_is_not():
    async with shop(load_balancer={"policy": "round_robin"}) as (mesh, _, _, local):
        assert set((await who(local, 30)).values()) == {10}
        await mesh.applied(
            await mesh.apply({"kind": "service", "name": "payments", "load_balancer": {"policy": "random"}})
        )
        counts = await who(local, 300)
        assert set(counts) == {"p0", "p1", "p2"}
        assert all(60 <= count <= 140 for count in counts.values())  # 100 +- 5 sigma


async def test_an_instance_that_comes_back_starts_slowly():
    async with shop(2, load_balancer={"policy": "round_robin", "slow_start": "3s"}) as (_, agent, _, local):
        await asyncio.sleep(3.2)  # until the others are not new any more
        late = HttpApp(free_port(), "late")
        async with late:
            await agent.down("payments", "p0")
            await agent.up(name="payments", id="late", port=late.port, protocol="http")
            counts = await who(local, 100)
            assert counts["late"] < 30  # an even share would be 50
            assert counts["late"] + counts["p1"] == 100


def left(agent) -> dict[str, dict]:
    """What the agent says of web's limits towards payments."""
    return {row["limit"]: row for row in agent.status()["limits"]}


async def test_requests_beyond_the_limits_are_refused_at_once_and_others_are_served():
    pool = {"max_requests": 2, "max_connections": 2, "max_pending_requests": 2}
    async with shop(1, connection_pool=pool) as (_, agent, apps, local):
        apps[0].delay = 0.5
        asked = asyncio.gather(*(get(local) for _ in range(8)))
        await eventually(lambda: left(agent)["max_requests"]["near"], 5)
        answers = await asked
        counts = Counter(answer.status for answer in answers)
        assert counts[200] == 2
        assert counts[503] == 6
        assert {answer.headers["x-mesh-refused"] for answer in answers if answer.status == 503} == {"overflow"}
        apps[0].delay = 0.0
        await answering(local)
        stats = agent.admin("/stats?filter=out/web/payments.circuit_breakers.default.remaining_rq").decode()
        assert "remaining_rq: 2" in stats
        row = left(agent)["max_requests"]
        assert (row["left"], row["allowed"], row["near"], row["reached"]) == (2, 2, False, 6)


async def test_a_connection_is_given_up_after_its_number_of_requests():
    async with shop(1, connection_pool={"max_requests_per_connection": 5}) as (_, agent, _, local):
        before = requests_and_connections(agent)
        await who(local, 50)
        requests, connections = (now - then for now, then in zip(requests_and_connections(agent), before, strict=True))
        assert requests == 50
        assert 9 <= connections <= 11


def requests_and_connections(agent):
    text = agent.admin("/stats?filter=^cluster.out/web/payments.upstream_(rq|cx)_total$").decode()
    found = dict(line.rsplit(": ", 1) for line in text.splitlines())
    return tuple(int(found[f"cluster.out/web/payments.upstream_{name}_total"]) for name in ("rq", "cx"))


async def test_an_instance_that_fails_is_left_out_and_comes_back():
    asked = {"consecutive_5xx": 3, "interval": "200ms", "base_ejection_time": "1s", "max_ejection_percent": 50}
    async with shop(outlier_detection=asked) as (_, _, apps, local):
        apps[1].status = 500
        await who(local, 30)
        seen = await who(local, 60)
        assert set(seen) == {"p0", "p2"}
        apps[1].status = 200
        until = time.monotonic() + 5
        while "p1" not in await who(local, 10):
            assert time.monotonic() < until
            await asyncio.sleep(0.1)


async def test_an_instance_of_which_too_large_a_share_fails_is_left_out_though_it_also_answers():
    asked = {"consecutive_5xx": 0, "failure_percentage": 30, "interval": "3s", "base_ejection_time": "20s"}
    async with shop(outlier_detection=asked) as (_, _, apps, local):
        failing = asyncio.create_task(every_other_time(apps[1]))
        until = time.monotonic() + 30
        while "p1" in await who(local, 60):  # Envoy judges an interval in which each was asked 20 times
            assert time.monotonic() < until
        failing.cancel()
        assert set(await who(local, 30)) == {"p0", "p2"}


async def every_other_time(app):
    """It fails and answers in turns of five milliseconds, so no number of failures in a row is sure."""
    while True:
        app.status = 700 - app.status
        await asyncio.sleep(0.005)


async def test_proxies_check_instances_themselves_where_they_are_asked_to():
    check = {"http": "/healthz", "interval": "100ms", "timeout": "500ms", "unhealthy_threshold": 2}
    async with shop(health_check=check) as (_, _, apps, local):
        assert all(any("GET /healthz" in head for head in app.seen) for app in apps)
        apps[0].status = 503
        until = time.monotonic() + 10  # the first check may be one of an unused service, after five seconds
        while "p0" in await who(local, 12):
            assert time.monotonic() < until
            await asyncio.sleep(0.05)
        apps[0].status = 200
        until = time.monotonic() + 10
        while "p0" not in await who(local, 12):
            assert time.monotonic() < until
            await asyncio.sleep(0.05)


async def test_new_settings_fail_no_request_that_is_under_way():
    async with shop(2) as (mesh, _, _, local):
        slow = asyncio.create_task(get(local, "/slow"))
        await asyncio.sleep(0.2)
        document = {"kind": "service", "name": "payments", "connection_pool": {"max_connections": 5}}
        await mesh.applied(await mesh.apply(document))
        assert (await slow).status == 200
        assert (await get(local)).status == 200
