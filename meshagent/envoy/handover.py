"""One Envoy follows another with no connection refused: hot restart (ADR 0031)."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import structlog

from meshagent.envoy import outlive
from meshagent.envoy.admin import AdminClient
from meshagent.envoy.handle import Handle, end
from meshagent.envoy.lineage import BASE_IDS, Lineage, lineage_of
from meshagent.envoy.locate import hot_restart_version
from meshagent.envoy.spawn import spawn
from meshagent.errors import EnvoyFailed, MeshError
from meshagent.private import read_private, write_private

_log = structlog.get_logger(__name__)
_UNKNOWN = b"\x18\x01"
_BASE_ID = "envoy-base-id"
_SERVES_SECONDS = 60.0  # one with 10,000 clusters serves after 6 s (measured)
_LOOK_SECONDS = 0.05
_SECCOMP = Path("/proc/sys/kernel/seccomp/actions_avail")
_SHORTEST_PATIENCE = 3  # seconds: longer than --drain-time-s, as Envoy wants it


def founding(directory: Path, sockets: Path, binary: Path) -> Lineage | None:
    """The first of a row of Envoys; None where no other could follow it.

    The number that the row is known by is drawn once and kept in `directory`: one that others could guess would let
    them make the shared memory before Envoy does, which then does not start.
    """
    made = Lineage(_kept_base_id(directory / _BASE_ID), 0, sockets, _SHORTEST_PATIENCE)
    possible = (
        made.fits,
        os.access(made.memory.parent, os.W_OK | os.X_OK),
        os.uname().machine in outlive.ARCHITECTURES and _SECCOMP.exists(),
        not _privileged(binary),
    )
    return made if all(possible) else None


def _privileged(binary: Path) -> bool:
    """Whether its file grants capabilities, which `outlive` would take from it."""
    try:
        return "security.capability" in os.listxattr(binary)
    except OSError:  # a file system without such a thing
        return False


def patience(drain_seconds: float) -> int:
    """Seconds that the one before has for what is under way."""
    return max(_SHORTEST_PATIENCE, round(drain_seconds))


async def obstacle(running: Handle, admin: AdminClient, binary: Path) -> str:
    """Why no other can follow this one without a gap; "" where one can. Raises EnvoyMissing, EnvoyFailed."""
    row = lineage_of(running.arguments)
    if row is None:
        return "it was started without hot restart"
    if not row.memory.exists():  # logind removes what a user leaves behind who logs out
        return f"{row.memory}, which it shares with the next one, is gone"
    theirs, ours = (await admin.get("/hot_restart_version")).decode().strip(), await hot_restart_version(binary)
    return "" if theirs == ours else f"its hot restart is of version {theirs}, and that of {binary} is {ours}"


async def follow(
    command: Sequence[str],
    bootstrap: bytes,
    directory: Path,
    admin: AdminClient,
    *,
    started: Callable[[Handle], None] = lambda handle: None,
    given_up: Callable[[], bool] = lambda: False,
) -> Handle:
    """Start the Envoy of this command, whose lineage follows the one that runs; returns when it serves in its place.

    `started` hears of it at once. From its return on the one before accepts nothing, lets what is under way end, and is
    ended when its time is over. Raises EnvoyFailed when the new one does not come to serve, and then leaves none of it:
    the one before serves on, though its admin socket may be gone.
    """
    wanted = lineage_of(command)
    handle = Handle.of(spawn(list(command), directory), command, bootstrap)
    try:
        started(handle)
        async with asyncio.timeout(_SERVES_SECONDS):
            while handle.alive() and not given_up():
                if wanted and await _serves(admin, wanted.epoch):
                    return handle
                await asyncio.sleep(_LOOK_SECONDS)
    except TimeoutError:
        pass
    except BaseException:
        handle.send(signal.SIGKILL)
        raise
    how = "was not waited for" if handle.alive() else "ended at its start"
    await end(handle)
    raise EnvoyFailed(f"the Envoy that was to follow {how}", next_step=f"what it says is in {directory}")


async def _serves(admin: AdminClient, epoch: int) -> bool:
    with suppress(EnvoyFailed):
        info = await admin.server_info()
        told = info.get("command_line_options", {}).get("restart_epoch", 0)
        return bool(told == epoch and info.get("state") == "LIVE")
    return False


async def stand_in(ended: Lineage, seconds: float) -> None:
    """Speak for an Envoy that was killed before the one after it told it to end, so long as that may have questions.

    That one would ask in vain for 10 s, in which it takes no configuration, and then crash (measured). To "I do not know
    what you mean" it says nothing more, and opens by itself what it wanted to have passed on.
    """
    loop = asyncio.get_running_loop()
    with suppress(OSError):
        transport, _ = await loop.create_datagram_endpoint(_Speaker, str(ended.listens_at), family=socket.AF_UNIX)
        try:
            await asyncio.sleep(seconds)
        finally:
            transport.close()


class _Speaker(asyncio.DatagramProtocol):
    """`didnt_recognize_your_last_message` of Envoy's hot_restart.proto, behind its length."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, _question: bytes, addr: Any) -> None:
        self._transport.sendto(len(_UNKNOWN).to_bytes(8) + _UNKNOWN, addr)


def forget(lineage: Lineage | None) -> None:
    """Remove what a row of Envoys leaves behind: shared memory, and the sockets that they spoke over."""
    if lineage is None:
        return
    left = [lineage.memory, *lineage.sockets.parent.glob(f"{lineage.sockets.name}_*{lineage.base_id}[0-2]")]
    for path in left:
        with suppress(OSError):
            path.unlink()


def _kept_base_id(path: Path) -> int:
    with suppress(MeshError, ValueError):
        if 0 <= (kept := int(read_private(path))) < BASE_IDS:
            return kept
    drawn = secrets.randbelow(BASE_IDS)
    try:
        write_private(path, str(drawn).encode())
    except MeshError as error:  # this one serves all the same, and says itself who it is
        _log.warning("envoy_state_not_saved", problem=str(error), next_step=error.next_step)
    return drawn
