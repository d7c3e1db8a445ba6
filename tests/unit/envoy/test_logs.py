from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from meshagent.envoy import logs
from meshagent.envoy.admin import AdminClient
from meshagent.envoy.logs import follow, is_refusal, parse_line, rotate, tell_log, tell_requests
from tests.unit.envoy.fake_admin import OK, fake_admin

NOBODY = AdminClient(Path("/nowhere/admin.sock"))


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(logs, "_EVERY_SECONDS", 0)
    monkeypatch.setattr(follow, "__kwdefaults__", {"every": 0, "rotate_bytes": 300})
    path = tmp_path / "envoy.log"
    path.write_text("")
    return path


def add(path: Path, *events: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(event) + "\n" for event in events)


@asynccontextmanager
async def doing(coroutine: Any) -> AsyncIterator[None]:
    """It runs meanwhile, and has begun."""
    task = asyncio.create_task(coroutine)
    await asyncio.sleep(0)
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0)


def test_a_line_is_an_object_or_nothing() -> None:
    assert parse_line(b'{"a": 1}') == {"a": 1}
    assert parse_line(b'{"a": "\xff"}') == {"a": "\ufffd"}
    for line in (b"", b"[1]", b"[2026-11-21 06:49:51][critical] text", b'{"a":'):
        assert parse_line(line) is None


def test_a_refusal_is_known_by_envoys_own_words() -> None:
    assert is_refusal({"details": "rbac_access_denied_matched_policy[none]"})
    for details in (None, "-", "via_upstream", "upstream_reset"):
        assert not is_refusal({"details": details})
    assert not is_refusal({})
    assert is_refusal({"side": "inbound", "flags": "NC", "details": None})  # TCP, where nobody is allowed
    assert not is_refusal({"side": "outbound to ledger", "flags": "NC", "details": None})


async def test_what_envoy_says_is_said_with_its_own_level(log: Path) -> None:
    said = [{"level": level, "logger": "upstream", "message": f"{level}!"} for level in ("info", "warning", "critical")]
    with capture_logs() as captured:
        async with doing(tell_log(log, NOBODY)):
            add(log, *said)
            await until(lambda: len(captured) == 3)
    assert [(one["event"], one["log_level"], one["logger_name"], one["message"]) for one in captured] == [
        ("envoy_logged", level, "upstream", f"{level}!") for level in ("info", "warning", "critical")
    ]


async def test_a_refused_request_is_told_apart_and_every_one_is_handed_on(log: Path) -> None:
    lines = [
        {"details": "rbac_access_denied_matched_policy[none]", "path": "/a", "event": "forged"},
        {"details": "via_upstream", "path": "/b"},
    ]
    handed: list[dict[str, Any]] = []
    with capture_logs() as captured:
        async with doing(tell_requests(log, NOBODY, handed.append)):
            add(log, *lines)
            await until(lambda: len(handed) == 2)
    assert handed == lines
    assert [(one["event"], one["path"]) for one in captured] == [("request_refused", "/a"), ("request_logged", "/b")]


async def test_what_shadow_alone_would_refuse_is_handed_on_and_not_said_one_by_one(log: Path) -> None:
    went_well = {"side": "inbound", "status": 200, "details": "via_upstream", "shadow": "denied", "path": "/a"}
    lines = [
        went_well,
        went_well | {"status": 500, "path": "/b"},
        went_well | {"status": 403, "details": "rbac_access_denied_matched_policy[none]", "path": "/c"},
        went_well | {"shadow": "allowed", "path": "/d"},
    ]
    handed: list[dict[str, Any]] = []
    with capture_logs() as captured:
        async with doing(tell_requests(log, NOBODY, handed.append)):
            add(log, *lines)
            await until(lambda: len(handed) == 4)
    assert handed == lines
    assert [(one["event"], one["path"]) for one in captured if "path" in one and one["path"] != str(log)] == [
        ("request_logged", "/b"),
        ("request_refused", "/c"),
        ("request_logged", "/d"),
    ]


async def test_a_file_that_grows_too_long_is_put_aside_once_and_envoy_told(log: Path) -> None:
    asked: list[str] = []

    def answer(line: str) -> bytes:
        asked.append(line)
        return OK

    seen: list[int] = []

    async def read(admin: AdminClient) -> None:
        nonlocal seen
        async for event in follow(log, admin):
            seen += [event["n"]]

    async with fake_admin(answer) as path, doing(read(AdminClient(path))):
        add(log, *({"n": number} for number in range(40)))
        await until(lambda: bool(asked))
        await until(lambda: log.stat().st_size == 0)
        add(log, {"n": 40})
        await until(lambda: len(seen) == 41)
    assert asked == ["POST /reopen_logs"]
    assert seen == list(range(41))
    assert len(log.with_name("envoy.log.1").read_text().splitlines()) == 40


async def test_a_file_is_left_in_place_when_envoy_does_not_hear_of_the_new_one(log: Path) -> None:
    log.write_text("kept\n")
    with capture_logs() as captured:
        assert not await rotate(log, NOBODY)
    assert log.read_text() == "kept\n"
    assert captured[0]["event"] == "log_not_rotated"


async def test_the_new_file_is_for_its_user_only(log: Path) -> None:
    async with fake_admin(lambda _: OK) as path:
        assert await rotate(log, AdminClient(path))
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


async def test_lines_that_were_left_out_are_said(log: Path) -> None:
    with capture_logs() as captured:
        async with doing(tell_log(log, NOBODY)):
            with log.open("a") as file:
                file.write("x" * 99 + "\n" + ("y" * 99 + "\n") * 3000)
            await until(lambda: any(one["event"] == "log_skipped" for one in captured))
    assert next(one for one in captured if one["event"] == "log_skipped")["bytes"] == 100 * 3001 - (256 << 10)
