from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from meshagent.envoy.admin import AdminClient, parse_response
from meshagent.errors import EnvoyFailed
from tests.unit.envoy.fake_admin import chunked, fake_admin

STATS = b"""cluster.a.upstream_cx_active: 2
http.in.web.downstream_rq_time: No recorded values
http.in.web.downstream_rq_length: P0(nan,1.0) P25(nan,1.025)
control_plane.identifier: "mesh: 1"
server.live: 1
"""


async def test_statistics_are_the_numbers_and_nothing_else_and_the_pattern_arrives_whole() -> None:
    asked: list[str] = []

    def answer(line: str) -> bytes:
        asked.append(line)
        return chunked(STATS)

    async with fake_admin(answer) as path:
        assert await AdminClient(path).stats() == {"cluster.a.upstream_cx_active": 2, "server.live": 1}
        await AdminClient(path).stats("^a/(b|c)&x=1 \r\n$")
    assert asked == ["GET /stats", "GET /stats?filter=%5Ea%2F%28b%7Cc%29%26x%3D1%20%0D%0A%24"]


async def test_what_changes_something_is_posted() -> None:
    asked: list[str] = []

    def answer(line: str) -> bytes:
        asked.append(line)
        return chunked(b"OK\n")

    async with fake_admin(answer) as path:
        assert await AdminClient(path).post("/reopen_logs") == b"OK\n"
    assert asked == ["POST /reopen_logs"]


@pytest.mark.parametrize(
    ("response", "ready"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nLIVE\n", True),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\nPRE_INITIALIZING\n", False),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\nLIVE\n", False),
        (b"rubbish", False),
        (b"", False),
    ],
)
async def test_ready_is_what_says_live_with_status_200(response: bytes, ready: bool) -> None:
    async with fake_admin(lambda _: response) as path:
        assert await AdminClient(path).ready() is ready


async def test_nobody_there_is_not_ready_and_any_question_says_so(tmp_path: Path) -> None:
    admin = AdminClient(tmp_path / "none.sock")
    assert not await admin.ready()
    with pytest.raises(EnvoyFailed, match=r"none\.sock: No such file") as caught:
        await admin.stats()
    assert "meshagent proxy status" in caught.value.next_step


async def test_one_that_is_frozen_is_given_up() -> None:
    async with fake_admin(lambda _: None) as path:
        with pytest.raises(EnvoyFailed, match=r"no answer within 0\.05 s"):
            await AdminClient(path, timeout=0.05).get("/server_info")


async def test_a_question_can_be_cancelled_at_once() -> None:
    asked = asyncio.Event()
    async with fake_admin(lambda _: asked.set()) as path:
        asking = asyncio.create_task(AdminClient(path).get("/server_info"))
        await asked.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking


async def test_envoys_own_words_are_in_the_error() -> None:
    refused = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 14\r\n\r\nInvalid regex\n"
    async with fake_admin(lambda _: refused) as path:
        with pytest.raises(EnvoyFailed, match="answers 400 to GET /stats.*: Invalid regex$"):
            await AdminClient(path).stats("(")


@pytest.mark.parametrize("body", [b"not json", b"[]", b""])
async def test_an_answer_that_is_no_object_is_an_error(body: bytes) -> None:
    async with fake_admin(lambda _: chunked(body)) as path:
        with pytest.raises(EnvoyFailed, match="something else than an object to /certs"):
            await AdminClient(path).certs()


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 30\r\n\r\ncut off",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n10\r\ncut off",
        b"HTTP/1.1 abc\r\n\r\n",
    ],
)
def test_an_answer_that_was_cut_off_is_never_taken_for_a_whole_one(data: bytes) -> None:
    with pytest.raises(EnvoyFailed, match="cannot be read"):
        parse_response("GET", data)
