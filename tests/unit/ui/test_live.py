"""Live numbers: rates over the last seconds, and one reading for all who ask."""

from __future__ import annotations

import asyncio

from meshagent.api.fleet import FleetTraffic
from meshagent.model.edges import Edge
from meshagent.ui.live import Live, between, within


def reading(at: float, requests: int, *more: Edge) -> FleetTraffic:
    edge = Edge("outbound", "web", "payments", requests={"2xx": requests}, host="vm-1")
    return FleetTraffic((edge, *more), ("vm-1",), {"vm-2": "away"}, at)


def test_rates_are_of_whole_pairs_between_two_readings():
    part = Edge("outbound", "web", "payments", subset="v2", requests={"2xx": 5}, host="vm-1")
    other = Edge("inbound", "other", "payments", requests={"2xx": 9}, host="vm-1")
    numbers = between(reading(10, 0, part, other), reading(14, 40, part, other))
    assert set(numbers.pairs) == {("web", "payments")}
    assert numbers.pairs["web", "payments"]["rps"] == 10
    assert (numbers.hosts, numbers.missing) == (("vm-1",), {"vm-2": "away"})


def test_one_reading_alone_has_no_rates():
    only = reading(10, 5)
    assert between(only, only).pairs == {}


def test_old_readings_go_but_two_stay():
    readings = [reading(at, 0) for at in (0, 5, 20, 30)]
    assert [each.at for each in within(readings, 12)] == [20, 30]
    assert [each.at for each in within(readings, 5)] == [20, 30]
    assert [each.at for each in within(readings[:1], 5)] == [0]


async def test_many_who_ask_at_once_cost_one_reading():
    reads = []

    async def read() -> FleetTraffic:
        reads.append(1)
        await asyncio.sleep(0)
        return reading(asyncio.get_running_loop().time(), 5)

    live = Live(read)
    await asyncio.gather(*(live.numbers() for _ in range(5)))
    assert len(reads) == 1
