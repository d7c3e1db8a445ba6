"""Hosts that drive a rollout together, on the real SQLite store: whoever is there goes on, and nobody has to be."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from meshagent.agent import rollouts as module
from meshagent.agent.rollouts import Rollouts
from meshagent.agent.roster import Registered
from meshagent.envoy.counts import Counts
from meshagent.errors import StoreUnavailable
from meshagent.model.mesh import Mesh
from meshagent.model.rollout import Progress, Rollout
from meshagent.model.service import Service, ServiceDefinition
from meshagent.model.world import Stated, World
from meshagent.state.keys import Keys
from meshagent.state.progress import MeasuredRecord, put_measured, put_progress, read_progress
from meshagent.store.base import Delete
from meshagent.store.sqlite import open_sqlite

KEYS = Keys()
NOW = datetime(2026, 11, 21, tzinfo=UTC)
SUBSETS = {"v1": {"version": "v1"}, "v2": {"version": "v2"}}


@pytest.fixture(autouse=True)
def _quickly(monkeypatch):
    monkeypatch.setattr(module, "_OFTEN", 0.02)


@pytest.fixture
async def store(tmp_path):
    opened = await open_sqlite(tmp_path / "mesh.db", poll=0.02)
    yield opened
    await opened.close()


def world(protocol="http", **more):
    """A rollout whose steps last 80 ms."""
    plain = Rollout.model_validate({"name": "payments", "base": "v1", "to": "v2", "min_requests": 10} | more)
    wanted = plain.model_copy(update={"every": timedelta(milliseconds=80)})
    service = Service.model_validate({"name": "payments", "protocol": protocol, "subsets": SUBSETS})
    return World(1, Mesh(), services={"payments": Stated(service)}, rollouts={"payments": Stated(wanted)})


class Roster:
    """The instances of one host."""

    def __init__(self, *versions):
        self.registered = {}
        for version in versions:
            definition = ServiceDefinition(name="payments", id=version, port=80, meta={"version": version})
            self.registered["payments", version] = Registered(definition, 21000, "api", True)


class Host:
    """What Envoy counts: so many requests between two looks at each instance, of which some fail."""

    def __init__(self, name, *versions, failed=0):
        self.name, self.roster, self.failed = name, Roster(*versions), failed
        self.requests, self.failures, self.looks, self.changes = 0, 0, 0, 0
        self.told = True  # that they failed, by their status

    async def counts(self, _):
        self.looks += 1
        self.requests += 20
        self.failures += self.failed
        values = {}
        for _, version in self.roster.registered:
            head = f"http.in.payments.{version}/web.downstream_rq"
            failures = self.failures if version == "v2" and self.told else 0
            values |= {f"{head}_total": self.requests, f"{head}_completed": self.requests, f"{head}_5xx": failures}
        return Counts(values, {})

    async def errors(self, pattern):
        assert pattern == "^app/(payments)/"
        return {"app/payments/v2": self.failures}

    def changed(self):
        self.changes += 1


@asynccontextmanager
async def driving(store, *hosts, of=None, known=None):
    """The hosts at work. Gives their Rollouts."""
    lease = await store.lease(timedelta(seconds=30))
    found = []
    for host in hosts:
        made = Rollouts(
            store, KEYS, host.name, known or {}, host.roster, lambda: lease.id, host, host.changed, lambda: NOW
        )  # fmt: skip
        made.look(of or world())
        found.append(made)
    tasks = [asyncio.create_task(each.run()) for each in found]
    try:
        yield found, tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def told(store):
    return (await read_progress(store, KEYS, ["payments"]))["payments"]


async def until(store, wanted, wait=10.0):
    async with asyncio.timeout(wait):
        while not ((found := (await told(store)).progress) and wanted(found)):
            await asyncio.sleep(0.01)
    return found


async def test_a_healthy_rollout_goes_all_the_way_one_word_for_each_step(store):
    host = Host("vm-1", "v1", "v2")
    async with driving(store, host) as ((rollouts,), _):
        done = await until(store, lambda found: found.phase == "done")
        assert (done.turn, done.step, done.host) == (5, 3, "vm-1")
        async with asyncio.timeout(5):
            while rollouts.now["payments"] != done or (await told(store)).measured:
                await asyncio.sleep(0.01)
        assert host.changes == 5
        looks = host.looks
        await asyncio.sleep(0.1)
        assert host.looks == looks  # nothing is asked of Envoy any more


async def test_a_bad_one_is_taken_back_by_what_another_host_counted(store):
    old, new = Host("vm-1", "v1"), Host("vm-2", "v2", failed=2)
    async with driving(store, old, new):
        back = await until(store, lambda found: found.phase == "rolled_back")
        assert back.step == 0 and "10 % of" in back.why


async def test_who_drives_may_go_and_another_host_carries_on(store):
    first, second = Host("vm-1", "v1", "v2"), Host("vm-2", "v1", "v2")
    async with driving(store, first, second) as (_, tasks):
        await until(store, lambda found: found.step == 1)
        tasks[0].cancel()
        done = await until(store, lambda found: found.phase == "done")
        assert done.host == "vm-2"


async def test_hosts_that_only_call_follow_and_write_nothing(store):
    progress = Progress(
        run=world().rollouts["payments"].thing.run, turn=1, phase="running", step=1, since=NOW, host="a"
    )
    caller = Host("vm-3")
    async with driving(store, caller) as ((rollouts,), _):
        await store.commit(put_progress(KEYS, "payments", progress, 0))
        async with asyncio.timeout(5):
            while rollouts.now != {"payments": progress}:
                await asyncio.sleep(0.01)
        assert rollouts.rows() == [{"service": "payments", "to": "v2", "phase": "running", "percent": 25}]
        assert caller.looks == 0 and not (await told(store)).measured


async def test_a_store_that_forgot_or_went_back_gets_the_word_that_counts(store):
    run = world().rollouts["payments"].thing.run
    last = Progress(run=run, turn=4, phase="rolled_back", step=1, since=NOW, host="vm-1", why="it failed")
    async with driving(store, Host("vm-1", "v1"), known={"payments": last}) as ((rollouts,), _):
        assert await until(store, lambda found: found.turn == 4) == last
        await store.commit([Delete(KEYS.progress("payments"))])
        assert await until(store, lambda found: found.turn == 4) == last
        older = last.model_copy(update={"turn": 2, "phase": "running"})
        await store.commit(put_progress(KEYS, "payments", older, (await told(store)).revision))
        assert await until(store, lambda found: found.turn == 4) == last
        assert rollouts.now == {"payments": last}


async def test_with_another_id_it_begins_anew_whatever_was_told_of_the_one_before(store):
    run = world().rollouts["payments"].thing.run
    last = Progress(run=run, turn=9, phase="done", step=3, since=NOW, host="vm-1")
    async with driving(store, Host("vm-1", "v1", "v2"), of=world(id="b", steps=[100]), known={"payments": last}):
        begun = await until(store, lambda found: found.run != run)
        assert (begun.turn, begun.step) == (1, 0)


async def test_what_cannot_be_read_is_told_and_is_as_if_it_were_not_there(store):
    from meshagent.store.base import Put

    await store.commit([Put(KEYS.progress("payments"), b"{}")])
    caller = Host("vm-3")
    async with driving(store, caller) as ((rollouts,), _):
        async with asyncio.timeout(5):
            while not rollouts.problems:
                await asyncio.sleep(0.01)
        assert KEYS.progress("payments") in rollouts.problems and rollouts.now == {}


async def test_while_the_store_is_away_nothing_moves_and_afterwards_the_step_begins_again(store, monkeypatch):
    host = Host("vm-1", "v1", "v2")
    commit = type(store).commit
    away = asyncio.Event()

    async def lost(self, operations):
        if away.is_set():
            raise StoreUnavailable("gone", next_step="wait")
        return await commit(self, operations)

    monkeypatch.setattr(type(store), "commit", lost)
    async with driving(store, host) as ((rollouts,), _):
        await until(store, lambda found: found.step == 1)
        away.set()
        held = rollouts.now["payments"]
        await asyncio.sleep(0.3)
        assert rollouts.now["payments"].turn - held.turn <= 1
        assert rollouts._judged == {} and rollouts.problems == {"rollouts/own": "gone"}
        away.clear()
        await until(store, lambda found: found.phase == "done")
        assert rollouts.problems == {}


async def test_what_other_hosts_say_of_another_turn_does_not_count(store):
    lease = await store.lease(timedelta(seconds=30))
    run = world().rollouts["payments"].thing.run
    forged = MeasuredRecord(run=run, turn=99, serving=["v2"], counts={})
    await store.commit([put_measured(KEYS, "payments", "vm-9", forged, lease.id)])
    async with driving(store, Host("vm-1", "v1")):
        async with asyncio.timeout(5):
            while len((await told(store)).measured) < 2:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert (await told(store)).progress is None  # for no host says that v2 is in service now


async def test_a_grpc_call_that_is_answered_200_and_ends_in_an_error_has_failed(store):
    host = Host("vm-1", "v1", "v2", failed=2)
    host.told = False
    async with driving(store, host, of=world("grpc")):
        back = await until(store, lambda found: found.phase == "rolled_back")
        assert back.step == 0 and "10 % of" in back.why
