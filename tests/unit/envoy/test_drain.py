from __future__ import annotations

from datetime import timedelta

import pytest

from meshagent.envoy.admin import AdminClient
from meshagent.envoy.drain import drain, under_way
from meshagent.errors import EnvoyFailed
from tests.unit.envoy.fake_admin import OK, chunked, fake_admin

HTTP = "http.in.web.downstream"
WEB, DB = "listener.127.0.0.1_21000", "listener.[__1]_21001"


@pytest.mark.parametrize(
    ("stats", "expected"),
    [
        ({}, 0),
        ({f"{HTTP}_rq_active": 3, f"{HTTP}_cx_active": 1, f"{WEB}.downstream_cx_active": 1}, 3),
        ({f"{HTTP}_rq_active": 0, f"{HTTP}_cx_active": 5, f"{WEB}.downstream_cx_active": 5}, 0),
        ({f"{HTTP}_cx_active": 5, f"{WEB}.downstream_cx_active": 5, f"{DB}.downstream_cx_active": 2}, 2),
        ({f"{DB}.downstream_cx_active": 2, f"{DB}.worker_0.downstream_cx_active": 2}, 2),
        ({f"{HTTP}_rq_active": 1, "http.out.db.downstream_rq_active": 1}, 2),
        ({f"{HTTP}_cx_active": 1}, 0),
        (
            {
                "http.admin.downstream_rq_active": 1,
                "http.admin.downstream_cx_active": 1,
                "listener.admin.downstream_cx_active": 1,
                "listener.admin.main_thread.downstream_cx_active": 1,
            },
            0,
        ),
    ],
)
def test_work_is_requests_and_connections_that_are_not_http(stats: dict[str, int], expected: int) -> None:
    assert under_way(stats) == expected


class Proxy:
    """Has `work` requests under way, one less at each look, and takes one more when `late` is said."""

    def __init__(self, work: int, late: bool = False) -> None:
        self.work, self.late = work, late
        self.done: list[str] = []

    def answer(self, line: str) -> bytes:
        if line.startswith("POST"):
            self.done.append(line.removeprefix("POST "))
            self.work += self.late and line == "POST /drain_listeners"
            return OK
        left, self.work = self.work, max(0, self.work - 1)
        self.done.append(f"{left} left")
        return chunked(f"http.in.web.downstream_rq_active: {left}\n".encode())


async def test_callers_are_sent_away_first_and_the_rest_is_waited_for() -> None:
    proxy = Proxy(2)
    async with fake_admin(proxy.answer) as path:
        assert await drain(AdminClient(path), timedelta(seconds=5))
    assert proxy.done == [
        "/healthcheck/fail",
        "/drain_listeners?graceful",
        "2 left",
        "1 left",
        "0 left",
        "/drain_listeners",
        "0 left",
    ]


async def test_what_comes_in_at_the_last_moment_is_waited_for_too() -> None:
    proxy = Proxy(0, late=True)
    async with fake_admin(proxy.answer) as path:
        assert await drain(AdminClient(path), timedelta(seconds=5))
    assert proxy.done[-3:] == ["/drain_listeners", "1 left", "0 left"]


async def test_there_is_an_end_to_waiting() -> None:
    async with fake_admin(Proxy(1_000_000).answer) as path:
        assert not await drain(AdminClient(path), timedelta(seconds=0.1))


async def test_one_that_does_not_answer_cannot_be_drained() -> None:
    async with fake_admin(lambda _: None) as path:
        with pytest.raises(EnvoyFailed):
            await drain(AdminClient(path, timeout=0.05), timedelta(seconds=5))
