"""Hosts as namespaces of network, mounts and host name: each has an /etc, a /var/lib and a /run of its own. Needs root.

So commands run on them exactly as a person types them, without an option or a variable that says where anything is.
"""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.system.namespaces import Hosts, hosts

_PLACES = ("etc", "var/lib", "run")


@dataclass
class Machine:
    """One host, held by a process that sleeps in its namespaces."""

    name: str
    address: str
    directory: Path
    holder: subprocess.Popen[bytes]
    ran: list[list[str]] = field(default_factory=list)

    def within(self) -> tuple[str, ...]:
        """What goes before a command to run it on that host."""
        return ("nsenter", "--target", str(self.holder.pid), "--net", "--mount", "--uts", "--")

    def run(
        self, *words: str, given: str = "", env: dict[str, str] | None = None, timeout: float = 90
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the host, with `given` as its input; what came of it."""
        self.ran.append(list(words))
        return subprocess.run(
            [*self.within(), *words],
            input=given,
            env={"PATH": os.environ["PATH"], "HOME": "/var/lib", "LANG": "C.UTF-8", **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def path(self, place: str) -> Path:
        """Where a file of the host is seen from here."""
        return self.directory / place.lstrip("/")

    def pids(self) -> list[int]:
        """The processes of the host: those in its host-name namespace."""
        own = os.readlink(f"/proc/{self.holder.pid}/ns/uts")
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and os.readlink(entry / "ns/uts") == own:
                    found.append(int(entry.name))
        return found

    def end(self) -> None:
        """End every process of the host, the holder last."""
        for number in (15, 9):
            for pid in self.pids():
                if pid != self.holder.pid:
                    with suppress(ProcessLookupError):
                        os.kill(pid, number)
            _until_only(self, 12 if number == 15 else 3)
        self.holder.kill()
        self.holder.wait()


def _until_only(machine: Machine, seconds: float) -> None:
    until = time.monotonic() + seconds
    while len(machine.pids()) > 1 and time.monotonic() < until:
        time.sleep(0.1)


def _held(made: Hosts, name: str, directory: Path) -> Machine:
    mounts = []
    for place in _PLACES:
        (directory / place).parent.mkdir(parents=True, exist_ok=True)
        if place == "etc":
            subprocess.run(["cp", "-a", "/etc", str(directory / "etc")], check=True)
        else:
            (directory / place).mkdir()
        mounts.append(f"mount --bind {directory}/{place} /{place}")
    script = " && ".join(["mount --make-rprivate /", *mounts, f"hostname {name}", "echo ready", "exec sleep 100000"])
    holder = subprocess.Popen(
        [*made.within(name), "unshare", "--mount", "--uts", "sh", "-ec", script], stdout=subprocess.PIPE
    )
    assert holder.stdout
    assert holder.stdout.readline() == b"ready\n"
    return Machine(name, made.address(name), directory, holder)


@asynccontextmanager
async def machines(directory: Path, *names: str):
    """Hosts of these names: (their network, the machines)."""
    async with hosts(*names) as made:
        found = []
        try:
            found.extend(_held(made, name, directory / name) for name in names)
            yield made, found
        finally:
            for machine in found:
                machine.end()
