from __future__ import annotations

import asyncio
import os
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from meshagent.store.bell import Bell


async def rung(event: asyncio.Event) -> bool:
    async with asyncio.timeout(5):
        await event.wait()
    event.clear()
    return True


async def test_a_ring_wakes_every_other_listener_and_not_oneself(tmp_path: Path) -> None:
    bells = [Bell(tmp_path / "w") for _ in range(3)]
    events = [asyncio.Event() for _ in bells]
    for bell, event in zip(bells, events, strict=True):
        bell.listen(event.set)

    bells[0].ring()

    assert await rung(events[1])
    assert await rung(events[2])
    assert not events[0].is_set()
    for bell in bells:
        bell.hush()
        bell.close()
    assert list((tmp_path / "w").iterdir()) == []


async def test_ringing_where_nobody_ever_listened_does_nothing(tmp_path: Path) -> None:
    bell = Bell(tmp_path / "w")
    bell.ring()
    bell.close()
    assert not (tmp_path / "w").exists()


async def test_a_directory_deeper_than_a_socket_address_works(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d" * 50] * 5)
    deep.mkdir(parents=True)
    assert len(os.fsencode(deep)) > 200
    listening, ringing, event = Bell(deep / "w"), Bell(deep / "w"), asyncio.Event()
    listening.listen(event.set)

    ringing.ring()

    assert await rung(event)
    listening.hush()
    listening.close()
    ringing.close()


async def test_the_directory_and_the_sockets_are_the_owner_s_alone(tmp_path: Path) -> None:
    bell = Bell(tmp_path / "w")
    bell.listen(lambda: None)

    assert (tmp_path / "w").stat().st_mode & 0o777 == 0o700
    bell.hush()
    bell.close()


async def test_the_sockets_of_the_dead_are_removed(tmp_path: Path) -> None:
    bell, event = Bell(tmp_path / "w"), asyncio.Event()
    bell.listen(event.set)
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    dead.bind(str(tmp_path / "w" / "dead"))
    dead.close()
    (tmp_path / "w" / "not-a-socket").write_text("")
    ringing = Bell(tmp_path / "w")

    ringing.ring()

    assert await rung(event)
    assert not (tmp_path / "w" / "dead").exists()
    bell.hush()
    bell.close()
    ringing.close()


async def test_a_listener_that_does_not_listen_now_delays_nobody(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    frozen = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    frozen.bind(str(tmp_path / "w" / "frozen"))
    listening, ringing, event = Bell(tmp_path / "w"), Bell(tmp_path / "w"), asyncio.Event()
    listening.listen(event.set)

    for _ in range(2000):
        ringing.ring()

    assert await rung(event)
    assert (tmp_path / "w" / "frozen").exists(), "a full queue is no death"
    frozen.close()
    listening.hush()
    for bell in (listening, ringing):
        bell.close()


async def test_one_ring_reaches_five_hundred_listeners_that_are_all_busy(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) for _ in range(500)]
        for number, listener in enumerate(listeners):
            listener.setblocking(False)
            listener.bind(str(tmp_path / "w" / str(number)))
        ringing = Bell(tmp_path / "w")

        ringing.ring()  # nobody reads meanwhile, so all 500 datagrams are under way at once
        ringing.close()

        assert [listener.recv(2) for listener in listeners] == [b"\0"] * 500


async def test_a_listener_knows_that_it_was_cleaned_away_and_listens_again(tmp_path: Path) -> None:
    listening, ringing, event = Bell(tmp_path / "w"), Bell(tmp_path / "w"), asyncio.Event()
    assert not listening.in_place()
    listening.listen(event.set)
    assert listening.in_place()

    for found in (tmp_path / "w").iterdir():
        found.unlink()
    (tmp_path / "w").rmdir()
    assert not listening.in_place()
    ringing.ring()
    listening.listen(event.set)
    assert listening.in_place()
    ringing.ring()

    assert await rung(event)
    listening.hush()
    for bell in (listening, ringing):
        bell.close()


async def test_a_file_in_the_directory_s_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "w").write_text("")
    bell = Bell(tmp_path / "w")

    with pytest.raises(OSError):  # noqa: PT011  which one depends on the platform
        bell.listen(lambda: None)
    bell.ring()
    bell.close()
