"""What a host tells of the calls that its proxies saw."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from meshagent.agent.observations import MOST, Observations
from meshagent.model.mesh import Mesh
from meshagent.model.observed import CallKey
from meshagent.model.world import World

START = datetime(2026, 11, 21, tzinfo=UTC)


class Place:
    """Observations in a directory, with a clock that is told the time."""

    def __init__(self, directory, default="shadow-deny"):
        self.now = START
        self.told, self.asked = [], []
        self.world = World(1, Mesh(default_action=default))
        self.path = directory / "observed.json"
        self.seen = self.again()

    def again(self):
        """What the next agent on this host begins with."""
        operations = SimpleNamespace(converger=SimpleNamespace(world=self.world), observed=())
        self.operations = operations
        operations.sampled = None
        operations.report = lambda urgent: self.told.append(operations.observed)
        made = Observations(self.path.parent, lambda: self.now, self.edges, operations, self)
        made.load()
        if operations.observed:
            self.told.append(operations.observed)
        return made

    async def post(self, path):
        """As Envoy's admin interface does."""
        self.asked.append(path)

    async def edges(self):
        return []

    def later(self, seconds):
        self.now += timedelta(seconds=seconds)
        self.seen.refresh()
        return {row.key: row.calls for row in self.told[-1]} if self.told else {}


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def line(source="web", path="/orders/17", method="GET", **more):
    said = {"time": "2026-11-21T00:00:00.000Z", "side": "inbound", "service": "pay", "shadow": "denied", "status": 200}
    said |= {
        "source": f"spiffe://mesh.internal/svc/{source}",
        "details": "via_upstream",
        "flags": "-",
        "duration_ms": 3,
    }
    return said | {"method": method, "path": path, "destination": "spiffe://mesh.internal/svc/pay"} | more


def edge(calls, source="web", destination="pay", **more):
    said = {
        "side": "outbound",
        "source": source,
        "destination": destination,
        "route": "",
        "subset": "",
        "protocol": "http",
    }
    return said | {"requests": {"2xx": calls, "4xx": 0}, "connections": 0, "active": 0} | more


def test_requests_that_shadow_would_refuse_are_added_up_by_method_and_kind_of_path(place):
    for path in ("/orders/17", "/orders/18", "/health"):
        place.seen.take(line(path=path))
    assert place.later(1) == {CallKey("web", "pay", "GET", "/orders/*"): 2, CallKey("web", "pay", "GET", "/health"): 1}


@pytest.mark.parametrize(
    "other",
    [
        line(shadow="allowed"),
        line(shadow=None),
        line(status=403, details="rbac_access_denied_matched_policy[none]"),
        line(time="?"),
        line(method="x y"),
    ],
)
def test_what_shadow_allows_what_was_refused_and_what_cannot_be_read_is_not(place, other):
    place.seen.take(other)
    assert place.later(1) == {}


def test_pairs_are_what_grew_since_the_last_reading_also_after_a_new_envoy(place):
    place.seen.count(
        [edge(5), edge(9, route="canary"), edge(2, destination="db", protocol="tcp", requests={}, connections=2)]
    )
    assert place.later(1) == {CallKey("web", "pay"): 5, CallKey("web", "db"): 2}
    place.seen.count([edge(8)])
    place.seen.count([edge(1)])
    assert place.later(61)[CallKey("web", "pay")] == 9


async def test_of_a_flood_as_much_is_logged_as_can_be_read_and_the_numbers_are_those_of_all(place, monkeypatch):
    looks = iter([0, 4000, 1000, 1000, 10, 10])

    async def look(_):
        place.seen.refresh()
        for _ in range(next(looks)):
            place.seen.take(line())

    monkeypatch.setattr("meshagent.agent.observations.asyncio.sleep", look)
    with pytest.raises(RuntimeError):  # the looks are over
        await place.seen.run()
    share = "/runtime_modify?meshagent.shadow_log_percent="
    assert place.asked == [f"{share}100", f"{share}25", f"{share}100"]
    assert place.operations.sampled == START
    assert place.later(61) == {CallKey("web", "pay", "GET", "/orders/*"): 4000 + 4 * (1000 + 1000 + 10) + 10}


def test_what_others_call_here_is_their_hosts_to_tell(place):
    place.seen.count([edge(5, side="inbound")])
    assert place.later(1) == {}


def test_a_new_pair_is_told_at_once_and_numbers_once_a_minute_in_shadow(place):
    place.seen.count([edge(1)])
    place.later(1)
    place.seen.count([edge(2)])
    assert place.later(30)[CallKey("web", "pay")] == 1
    assert place.later(31)[CallKey("web", "pay")] == 2
    place.seen.count([edge(3), edge(1, source="batch")])
    assert len(place.later(1)) == 2


def test_where_nothing_is_in_shadow_numbers_are_told_once_an_hour(tmp_path):
    place = Place(tmp_path, default="deny")
    place.seen.count([edge(1)])
    place.later(1)
    place.seen.count([edge(2)])
    assert place.later(3000)[CallKey("web", "pay")] == 1
    assert place.later(601)[CallKey("web", "pay")] == 2


def test_a_restart_forgets_nothing_and_counts_nothing_twice(place):
    place.seen.count([edge(5)])
    place.seen.take(line())
    before = place.later(1)
    place.operations.sampled = START
    place.seen.count([edge(6)])
    before |= place.later(61)
    place.seen = place.again()
    assert place.operations.sampled == START
    assert {row.key: row.calls for row in place.told[-1]} == before
    place.seen.count([edge(7)])
    assert place.later(61)[CallKey("web", "pay")] == 7


def test_a_file_that_cannot_be_read_is_no_more_than_lost(place):
    place.path.write_text("{")
    place.path.chmod(0o600)
    assert place.again().told == ()


def test_after_seven_days_without_a_call_a_pair_is_forgotten(place):
    place.seen.count([edge(1), edge(1, source="batch")])
    place.later(1)
    place.now += timedelta(days=6)
    place.seen.count([edge(2), edge(1, source="batch")])
    assert place.later(86400) == {CallKey("web", "pay"): 2}


def test_a_connection_that_stays_open_is_a_call_for_as_long(place):
    longest = edge(0, destination="db", protocol="tcp", requests={}, connections=1, active=1)
    place.seen.count([longest])
    place.later(1)
    for _ in range(9):
        place.now += timedelta(days=1)
        place.seen.count([longest])
        place.seen.refresh()
    assert place.later(1) == {CallKey("web", "db"): 1}
    place.seen.count([longest | {"active": 0}])
    assert place.later(8 * 86400) == {}


def test_a_caller_that_asks_for_ever_new_paths_fills_neither_memory_nor_the_report(place):
    for number in range(2000):
        place.seen.take(line(path=f"/{'abcdefghij'[number % 10]}/x{number:x}y/z{number // 7:x}w", method="GET"))
    found = place.later(1)
    assert len(found) <= 64 and sum(found.values()) == 2000


def test_however_many_pairs_there_are_the_report_is_bounded_and_has_the_newest(place):
    for number in range(MOST + 50):
        place.now += timedelta(seconds=1)
        place.seen.count([edge(1, source=f"s{number}")])
    found = place.later(0)
    assert len(found) == MOST and CallKey(f"s{MOST + 49}", "pay") in found and CallKey("s0", "pay") not in found
    assert len(json.dumps([row.model_dump(mode="json") for row in place.told[-1]])) < 64 << 10
