"""This host in the store, on the real SQLite store: what is offered is there, and what the store forgets is put back."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from meshagent.agent.membership import Membership, at_once, repeated
from meshagent.catalog.base import Offer
from meshagent.errors import LeaseLost, StoreUnavailable
from meshagent.model.service import Instance, ServiceDefinition
from meshagent.state.catalog import StoreCatalog, read_instances, read_reports
from meshagent.state.keys import Keys
from meshagent.state.records import ReportRecord
from meshagent.store.base import Delete
from meshagent.store.sqlite import open_sqlite

KEYS = Keys()
PLACE = ("payments", "payments")
INSTANCE = Instance(service="payments", host="vm-1", id="payments", address="10.0.0.1", port=21000)
DEFINITION = ServiceDefinition(name="payments", port=8080)


def report(revision=1, services=("payments",), second=0):
    at = datetime(2026, 11, 21, 0, 0, second, tzinfo=UTC)
    return ReportRecord(host="vm-1", revision=revision, services=list(services), agent_version="1", at=at)


@pytest.fixture
async def store(tmp_path):
    opened = await open_sqlite(tmp_path / "mesh.db", poll=0.05)
    yield opened
    await opened.close()


@asynccontextmanager
async def running(store, ttl=timedelta(seconds=1), catalog=None):
    membership = Membership(store, KEYS, catalog or StoreCatalog(store, KEYS), ttl)
    task = asyncio.create_task(membership.run())
    try:
        yield membership
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition, wait=5.0):
    async with asyncio.timeout(wait):
        while not await condition():
            await asyncio.sleep(0.01)


async def test_what_is_offered_is_registered_and_what_is_not_goes(store):
    async with running(store) as membership:
        membership.offer({PLACE: Offer(INSTANCE, DEFINITION)})
        await membership.settled()
        assert await read_instances(store, KEYS) == (INSTANCE,)
        failing = INSTANCE.model_copy(update={"health": "failing"})
        membership.offer({PLACE: Offer(failing, DEFINITION)})
        await membership.settled()
        assert await read_instances(store, KEYS) == (failing,)
        membership.offer({})
        await membership.settled()
        assert await read_instances(store, KEYS) == ()


async def test_it_stays_while_the_host_lives_and_goes_when_it_does_not(store):
    async with running(store, timedelta(seconds=0.6)) as membership:
        membership.offer({PLACE: Offer(INSTANCE, DEFINITION)})
        await membership.settled()
        await asyncio.sleep(1.2)
        assert await read_instances(store, KEYS) == (INSTANCE,)

    async def gone():
        return await read_instances(store, KEYS) == ()

    await until(gone)


async def test_a_lost_lease_is_made_new_with_everything_on_it(store):
    async with running(store, timedelta(seconds=0.6)) as membership:
        membership.offer({PLACE: Offer(INSTANCE, DEFINITION)})
        membership.report(report(), urgent=True)
        await membership.settled()
        await membership._lease.revoke()

        async def back():
            return await read_instances(store, KEYS) == (INSTANCE,) and bool(await read_reports(store, KEYS))

        await until(back)


async def test_a_forgotten_lease_is_noticed_long_before_it_would_be_renewed(store):
    async with running(store, timedelta(seconds=60)) as membership:
        membership.offer({PLACE: Offer(INSTANCE, DEFINITION)})
        membership.report(report(), urgent=True)
        await membership.settled()
        for _ in range(2):
            await membership._lease.revoke()

            async def back():
                return await read_instances(store, KEYS) == (INSTANCE,) and bool(await read_reports(store, KEYS))

            await until(back, 2.0)


async def test_a_report_that_somebody_deleted_is_written_again(store):
    async with running(store, timedelta(seconds=60)) as membership:
        membership.offer({PLACE: Offer(INSTANCE, DEFINITION)})
        membership.report(report(), urgent=True)
        await membership.settled()
        await store.commit([Delete(KEYS.report("vm-1"))])

        async def back():
            return bool(await read_reports(store, KEYS))

        await until(back, 2.0)


async def test_who_has_left_does_not_come_back_for_its_report_that_is_gone(store):
    async with running(store, timedelta(seconds=0.6)) as membership:
        membership.offer({PLACE: Offer(INSTANCE, DEFINITION)})
        membership.report(report(), urgent=True)
        await membership.settled()
        await membership.leave()
        await asyncio.sleep(0.5)
        assert await read_instances(store, KEYS) == () and await read_reports(store, KEYS) == ()


async def test_a_revision_that_concerns_others_waits_for_the_next_renewal(store):
    async with running(store, timedelta(seconds=3)) as membership:
        membership.report(report(1), urgent=True)

        async def revision_is(wanted):
            return [each.revision for each in await read_reports(store, KEYS)] == [wanted]

        await until(lambda: revision_is(1))
        membership.report(report(2, second=1), urgent=False)
        await asyncio.sleep(0.1)
        assert await revision_is(1)
        await until(lambda: revision_is(2))
        membership.report(report(3, second=2), urgent=True)
        await until(lambda: revision_is(3), 0.5)


async def test_leaving_takes_everything_out_at_once(store):
    async with running(store) as membership:
        membership.offer({PLACE: Offer(INSTANCE, DEFINITION)})
        await membership.settled()
        await membership.leave()
        assert await read_instances(store, KEYS) == ()


async def test_who_crashed_and_leaves_before_it_is_registered_again_takes_out_what_it_had(store):
    async with running(store) as before:
        before.offer({PLACE: Offer(INSTANCE, DEFINITION)})
        await before.settled()
    again = Membership(store, KEYS, StoreCatalog(store, KEYS), timedelta(seconds=1))
    await again.leave([INSTANCE])
    assert await read_instances(store, KEYS) == ()


async def test_a_record_deleted_behind_its_back_comes_back_with_the_next_lease(store):
    async with running(store, timedelta(seconds=0.6)) as membership:
        membership.offer({PLACE: Offer(INSTANCE, DEFINITION)})
        await membership.settled()
        await store.commit([Delete(KEYS.instance("payments", "vm-1", "payments"))])
        await membership._lease.revoke()

        async def back():
            return await read_instances(store, KEYS) == (INSTANCE,)

        await until(back)


class Moody(StoreCatalog):
    """A catalog that forgets what it had, or whose answer gets lost."""

    forgetful = False
    mute = 0

    async def register(self, offers, lease):
        await super().register(offers, lease)
        if self.mute:
            self.mute -= 1
            raise StoreUnavailable("the answer was lost")

    async def renew(self, instances):
        if self.forgetful and instances:
            self.forgetful = False
            await self.deregister(instances)
            raise LeaseLost("never heard of it")


async def test_what_the_catalog_forgot_is_registered_again(store):
    catalog = Moody(store, KEYS)
    async with running(store, timedelta(seconds=0.6), catalog) as membership:
        membership.offer({PLACE: Offer(INSTANCE, DEFINITION)})
        await membership.settled()
        catalog.forgetful = True

        async def back():
            return not catalog.forgetful and await read_instances(store, KEYS) == (INSTANCE,)

        await until(back)


async def test_what_may_have_been_registered_is_taken_out_when_it_is_no_longer_offered(store):
    catalog = Moody(store, KEYS)
    catalog.mute = 1
    async with running(store, timedelta(seconds=0.6), catalog) as membership:
        membership.offer({PLACE: Offer(INSTANCE, DEFINITION)})

        async def lost():
            return not catalog.mute and bool(membership.last_error)

        await until(lost)
        membership.offer({})

        async def gone():
            return await read_instances(store, KEYS) == () and not membership.last_error

        await until(gone)


async def test_a_call_without_an_answer_is_made_again_and_the_first_answer_counts():
    calls = []

    async def second_answers():
        calls.append(1)
        await (asyncio.sleep(0) if len(calls) == 2 else asyncio.Event().wait())

    await repeated(second_answers, 0.01)
    assert len(calls) == 2
    assert len(asyncio.all_tasks()) == 1


async def test_a_call_that_fails_is_not_made_again():
    async def fails():
        raise LeaseLost("gone", next_step="none")

    with pytest.raises(LeaseLost):
        await repeated(fails, 0.01)


async def test_what_fails_does_not_keep_the_other_from_being_done():
    done = []

    async def fails():
        raise StoreUnavailable("away", next_step="none")

    async def works():
        await asyncio.sleep(0)
        done.append(1)

    with pytest.raises(StoreUnavailable):
        await at_once(fails(), works())
    assert done
