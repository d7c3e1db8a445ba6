"""Wakes the watchers of a file in every process of this machine: one Unix datagram socket each, in one directory.

A ring is a hint and never the data: a lost one costs the latency of the safety poll, no change. Measured from commit to
a watcher awake in another process: 0.39 ms at the median, against 25 ms for a poll every 50 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

# The burst that one wake-up swallows; what is left wakes the listener again.
_BURST = 64


class Bell:
    """One process's end: it can ring all the others at once and, after `listen`, be rung by them.

    `ring` and `close` may run in another thread than the rest, which belongs to the event loop.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._sender = _datagram_socket()
        self._listener: socket.socket | None = None
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}"

    def listen(self, ring: Callable[[], None]) -> None:
        """From now on call `ring` on the running event loop whenever somebody rings. Raises OSError."""
        self.hush()
        with contextlib.suppress(FileExistsError):
            self._directory.mkdir(mode=0o700)
            give_to_owner_of_parent(self._directory)
        listener = _datagram_socket()
        try:
            with self._opened() as folder:
                listener.bind(_address(folder, self._name))
            give_to_owner_of_parent(self._directory / self._name)
        except OSError:
            listener.close()
            raise
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener, _answer, listener, ring)

    def hush(self) -> None:
        """Listen no more."""
        listener, self._listener = self._listener, None
        if listener is not None:
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()
            with contextlib.suppress(OSError):
                (self._directory / self._name).unlink()

    def in_place(self) -> bool:
        """Whether it listens, and where the others ring: somebody may have cleaned the directory away."""
        return self._listener is not None and os.path.exists(self._directory / self._name)  # noqa: PTH110  False, never an error

    def ring(self) -> None:
        """Wake every other listener, and remove the sockets of those that died."""
        try:
            with self._opened() as folder:
                for name in os.listdir(folder):
                    if name != self._name:
                        self._knock(folder, name)
        except FileNotFoundError:
            # Nobody ever listened.
            return
        except OSError as error:
            log.warning("bell_not_rung", directory=str(self._directory), error=str(error))

    def close(self) -> None:
        """Ring no more. `hush` comes first."""
        self._sender.close()

    def _knock(self, folder: int, name: str) -> None:
        try:
            if not self._sent(_address(folder, name)):
                # Datagrams count against their sender until they are read: a few hundred fill its buffer, and those
                # listeners that come after would not be woken. A new sender has all of its buffer.
                full, self._sender = self._sender, _datagram_socket()
                full.close()
                self._sent(_address(folder, name))
        except ConnectionRefusedError:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=folder)
            log.debug("dead_listener_removed", directory=str(self._directory), name=name)
        except OSError:
            # A socket just removed, or one that is not ours to ring.
            pass

    def _sent(self, address: str) -> bool:
        """Whether there was room for it: with the sender, and with the listener, who else is about to wake anyway."""
        try:
            self._sender.sendto(b"\0", address)
        except BlockingIOError:
            return False
        return True

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        folder = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield folder
        finally:
            os.close(folder)


def give_to_owner_of_parent(path: Path) -> None:
    """When root made the path, hand it to whoever owns the directory, who may be the agent's own user."""
    if os.geteuid() == 0:
        parent = path.parent.stat()
        if parent.st_uid != 0:
            os.chown(path, parent.st_uid, parent.st_gid, follow_symlinks=False)


def _answer(listener: socket.socket, ring: Callable[[], None]) -> None:
    with contextlib.suppress(BlockingIOError):
        for _ in range(_BURST):
            listener.recv(1)
    ring()


def _address(folder: int, name: str) -> str:
    """A path that always fits the 107 bytes of a Unix socket address, however deep the directory lies."""
    return f"/proc/self/fd/{folder}/{name}"


def _datagram_socket() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.setblocking(False)
    return made
