"""A bad line to a host: every packet comes later, and some never. Needs root.

There is no netem everywhere, so a process does it: two TAP devices in the bridge's namespace, one on the bridge, one on a
bridge of its own with the host's port, and what comes in at one goes out at the other when its time has come.
"""

from __future__ import annotations

import asyncio
import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import sys
import time
from contextlib import asynccontextmanager, suppress

from tests.system.namespaces import Hosts, ip

_TUNSETIFF = 0x400454CA
_TAP, _NO_HEAD = 0x0002, 0x1000
_LONGEST_FRAME = 65536


def tap(name: str) -> int:
    """A new TAP device of this namespace, gone when the descriptor is closed."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH", name.encode(), _TAP | _NO_HEAD))
    return descriptor


def carry(near: int, far: int, delay: float, loss: float) -> None:
    """Pass frames on between two TAPs for ever: `delay` seconds later. Of those from the far one a share is lost."""
    waiting: list[tuple[float, int, int, bytes]] = []
    number = 0
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            *_, out, frame = heapq.heappop(waiting)
            with suppress(OSError):
                os.write(out, frame)
        readable, _, _ = select.select([near, far], [], [], max(0.0, waiting[0][0] - now) if waiting else None)
        for descriptor in readable:
            frame = os.read(descriptor, _LONGEST_FRAME)
            if descriptor == near or random.random() >= loss:
                number += 1
                out = far if descriptor == near else near
                heapq.heappush(waiting, (time.monotonic() + delay, number, out, frame))


@asynccontextmanager
async def line(made: Hosts, name: str, *, delay: float, loss: float = 0.0):
    """While it lasts, all that goes to or from the host comes `delay` seconds later, and of what it sends a share is lost."""
    hub, port = made.namespace("hub"), f"p{made.names.index(name)}"
    near, far, apart = f"near-{port}", f"far-{port}", f"apart-{port}"
    command = (*made.within("hub"), sys.executable, "-m", "tests.system.lines", near, far, str(delay), str(loss))
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    try:
        assert await process.stdout.readline() == b"ready\n"
        ip("-n", hub, "link", "add", apart, "type", "bridge")
        ip("-n", hub, "link", "set", apart, "up")
        for device, bridge in ((near, "bridge"), (far, apart), (port, apart)):
            ip("-n", hub, "link", "set", device, "master", bridge, "up")
        yield
    finally:
        ip("-n", hub, "link", "set", port, "master", "bridge")
        process.kill()
        await process.wait()
        with suppress(subprocess.CalledProcessError):
            ip("-n", hub, "link", "delete", apart)


if __name__ == "__main__":
    near, far = tap(sys.argv[1]), tap(sys.argv[2])
    print("ready", flush=True)
    carry(near, far, float(sys.argv[3]), float(sys.argv[4]))
