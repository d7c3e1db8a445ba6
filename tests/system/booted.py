"""A machine with a real systemd: a container booted from Debian's packages, with what it changes kept in memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "deb"
_BOOT_SECONDS = 40.0
_POLL = 0.1
_CALLER = Path(__file__).with_name("booted_caller.py")


def root_file_system() -> Path:
    """Made from Debian's packages, once."""
    return Path(_said([ROOT / "packaging/rootfs"]).splitlines()[-1])


def package(*, version: str = "", again: bool = False) -> Path:
    """A package of this checkout; `again`: the last one, under another version."""
    words = [ROOT / "packaging/deb/build", "--fast", *(["--again"] if again else [])]
    said = _said(words, {"OUT": str(CACHE), **({"VERSION": version} if version else {})})
    return Path(said.splitlines()[-1])


def _said(words: list[str | Path], env: dict[str, str] | None = None) -> str:
    done = subprocess.run(words, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


class Booted:
    """The running machine. Commands are run in it as root."""

    def __init__(self, leader: int, console: Path) -> None:
        self.leader = leader
        self._enter = ["nsenter", "-t", str(leader), "-m", "-u", "-i", "-n", "-p", "--root", "--wd=/", "--"]
        self.root = Path(f"/proc/{leader}/root")
        self._console = console

    def run(self, *words: str, check: bool = True, env: dict[str, str] | None = None) -> str:
        """What a command says; where it fails, so does the test, with the journal."""
        done = subprocess.run(
            [*self._enter, "env", *(f"{key}={value}" for key, value in (env or {}).items()), *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if check and done.returncode:
            raise AssertionError(f"{words}: {done.stdout}{done.stderr}\n{self.journal()}")
        return (done.stdout + done.stderr).strip()

    def is_up(self) -> bool:
        """Whether it has booted."""
        return self.run("systemctl", "is-system-running", check=False) in ("running", "degraded")

    def journal(self) -> str:
        """The end of what the units said."""
        return self.run("journalctl", "-n", "60", "--no-pager", "-o", "cat", "-u", "meshagent*", check=False)

    def unit(self, unit: str, key: str) -> str:
        """One property of a unit."""
        return self.run("systemctl", "show", unit, "-P", key)

    def pid(self, unit: str) -> int:
        """Its main process, in the machine's own numbers."""
        return int(self.unit(unit, "MainPID"))

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """A file of root's."""
        self.run("/bin/sh", "-c", f"umask 022; cat > {path} <<'END'\n{text}\nEND\nchmod {mode:o} {path}")

    def wait(self, holds: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
        """Until it holds."""
        until = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < until, f"not within {seconds:g} s: {what}\n{self.journal()}"
            time.sleep(_POLL)

    @contextmanager
    def calling(self) -> Iterator[dict[str, int]]:
        """Calls from web to api all along, on one connection and on a new one in turn. Filled at the end: ok, failed."""
        counts: dict[str, int] = {}
        self.run("systemctl", "reset-failed", "calls", check=False)
        self.run("systemd-run", "--unit=calls", "-q", "/usr/bin/python3", "/caller.py", "/run/calls.json")
        self.wait((self.root / "run/calls.json").exists, "calls are made")
        try:
            yield counts
        finally:
            self.run("systemctl", "stop", "calls")
            counts |= json.loads((self.root / "run/calls.json").read_text())
            self.run("rm", "/run/calls.json")


@contextmanager
def booted(binds: dict[Path, str], console: Path) -> Iterator[Booted]:
    """Boot, and power off at the end."""
    words = ["systemd-nspawn", "-q", "-D", str(root_file_system()), "--volatile=overlay", "--boot", "--register=no"]
    words += ["--keep-unit", "--private-network", "--console=pipe", "--hostname=web-1"]
    words += [f"--bind-ro={source}:{target}" for source, target in {**binds, _CALLER: "/caller.py"}.items()]
    with console.open("wb") as said:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        try:
            machine = Booted(_leader(process, console), console)
            machine.wait(
                lambda: machine.run("systemctl", "is-system-running", check=False) in ("running", "degraded"),
                "boot",
                _BOOT_SECONDS,
            )
            yield machine
        finally:
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Pull the plug: nothing of the machine is kept. nspawn then ends by itself and cleans up."""
    for leader in _leaders(process):
        with suppress(ProcessLookupError):
            os.kill(leader, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(10)
    process.kill()
    process.wait()


def _leaders(process: subprocess.Popen[bytes]) -> list[int]:
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    except OSError:
        return []
    return [int(each) for each in children if _name(each) in ("systemd", "init")]


def _leader(process: subprocess.Popen[bytes], console: Path) -> int:
    """Process 1 of the machine, as this one here numbers it."""
    until = time.monotonic() + _BOOT_SECONDS
    while True:
        if named := _leaders(process):
            return named[0]
        assert process.poll() is None and time.monotonic() < until, console.read_text(errors="replace")
        time.sleep(_POLL)


def _name(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
