"""Hosts as network namespaces: each with an address on one bridge, made and removed by the test. Needs root.

What must be reached from all of them (a store that listens on this machine's loopback) is passed on by sockets that were
opened in the bridge's namespace and are served here.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import subprocess
import threading
from contextlib import asynccontextmanager, suppress
from pathlib import Path

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_NETWORK = "10.77.0"


def ip(*words: str) -> None:
    """Run one command of iproute2. Raises when it fails."""
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Hosts:
    """A bridge in a namespace of its own, and a namespace for each host."""

    def __init__(self, *names: str) -> None:
        self.tag = f"m{os.getpid()}"
        self.names = names

    def namespace(self, name: str) -> str:
        return f"{self.tag}-{name}"

    def address(self, name: str) -> str:
        """The host's address; the bridge's is `hub`."""
        return f"{_NETWORK}.{1 if name == 'hub' else 11 + self.names.index(name)}"

    def within(self, name: str) -> tuple[str, ...]:
        """What goes before a command to run it on that host."""
        return ("ip", "netns", "exec", self.namespace(name))

    def make(self) -> None:
        hub = self.namespace("hub")
        for name in ("hub", *self.names):
            ip("netns", "add", self.namespace(name))
            ip("-n", self.namespace(name), "link", "set", "lo", "up")
        ip("-n", hub, "link", "add", "bridge", "type", "bridge")
        ip("-n", hub, "addr", "add", f"{self.address('hub')}/24", "dev", "bridge")
        ip("-n", hub, "link", "set", "bridge", "up")
        for number, name in enumerate(self.names):
            ip(
                "-n",
                hub,
                "link",
                "add",
                f"p{number}",
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                self.namespace(name),
            )
            ip("-n", hub, "link", "set", f"p{number}", "master", "bridge", "up")
            ip("-n", self.namespace(name), "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
            ip("-n", self.namespace(name), "link", "set", "eth0", "up")
            ip("-n", self.namespace(name), "route", "add", "default", "via", self.address("hub"))

    def partition(self, one: str, other: str) -> None:
        """Lose every packet between two hosts, both ways. All else goes on."""
        ports = [f"p{self.names.index(name)}" for name in (one, other)]
        rules = "".join(f"iifname {a} oifname {b} drop\n" for a, b in (ports, ports[::-1]))
        chain = f"chain cut {{\ntype filter hook forward priority 0\n{rules}}}"
        command = ("ip", "netns", "exec", self.namespace("hub"), "nft", "-f", "-")
        subprocess.run(command, input=f"table bridge parted {{\n{chain}\n}}\n", text=True, check=True)

    def heal(self) -> None:
        """End the partition."""
        ip("netns", "exec", self.namespace("hub"), "nft", "delete", "table", "bridge", "parted")

    def remove(self) -> None:
        for name in (*self.names, "hub"):
            with suppress(subprocess.CalledProcessError):
                ip("netns", "delete", self.namespace(name))


@asynccontextmanager
async def hosts(*names: str):
    """Hosts of these names."""
    made = Hosts(*names)
    try:
        made.make()
        yield made
    finally:
        made.remove()


@asynccontextmanager
async def passed_on(made: Hosts, port: int, at: str = "hub"):
    """host:port under which the hosts reach what listens on this machine's loopback at `port`, as if it were on `at`."""
    address = made.address(at)
    listening = listen_in(made.namespace(at), address, port)

    async def pump(reader, writer):
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader, writer):
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(pump(reader, there_writer), pump(there_reader, writer))

    async with await asyncio.start_server(serve, sock=listening):
        yield f"{address}:{port}"


def listen_in(namespace: str, address: str, port: int) -> socket.socket:
    """A listening socket of another namespace, opened by a thread that enters it and ends."""
    made: list[socket.socket | OSError] = []

    def enter() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            with Path(f"/run/netns/{namespace}").open("rb") as file:
                if libc.setns(file.fileno(), _NEW_NETWORK):
                    raise OSError(ctypes.get_errno(), "setns")
            made.append(socket.create_server((address, port)))
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]
