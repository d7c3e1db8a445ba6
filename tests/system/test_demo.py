"""`meshagent demo` as a person runs it: what it says is right, and nothing of it stays behind, however it ends."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.system.apps import Caller
from tests.system.live import eventually, free_port

ROOT = Path(__file__).parents[2]


class Demo:
    """One demo in a process of its own, with all that it makes below `directory`."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self.output = directory / "output"
        (directory / "tmp").mkdir()
        # What a person set for another mesh must not matter.
        environment = {**os.environ, "TMPDIR": str(directory / "tmp"), "MESHAGENT_CA_PROVIDER": "nowhere"}
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "meshagent", "demo", *options],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def said(self) -> str:
        return self.output.read_text()

    def processes(self) -> dict[int, str]:
        """Everything that runs for this demo: our apps name their parent, the agent and Envoy our directory."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if f"--parent {self.process.pid} " in line or f"{self.directory}/" in line:
                    found[int(entry.name)] = line
        return found

    def find(self, word: str) -> int:
        """The pid of the one process with a word in its command line."""
        (pid,) = (pid for pid, line in self.processes().items() if word in line)
        return pid

    def nothing_runs(self) -> bool:
        return not self.processes()

    def left_behind(self) -> list[str]:
        return [path.name for path in (self.directory / "tmp").iterdir()]

    def command(self, *words: str) -> subprocess.CompletedProcess:
        """`meshagent WORDS` in another terminal, with the variables that the demo told us to set."""
        exports = dict(re.findall(r"^ +export (\w+)=(\S+)$", self.said, re.MULTILINE))
        assert set(exports) == {"MESHAGENT_STORE", "MESHAGENT_API"}, self.said
        words = [sys.executable, "-m", "meshagent", *words]
        return subprocess.run(words, cwd=ROOT, env=os.environ | exports, capture_output=True, text=True, check=False)


@contextmanager
def demo(*options: str):
    """A running demo. Whatever is left of a failed one is ended by pid."""
    directory = Path(tempfile.mkdtemp(prefix="demo-"))
    running = Demo(directory, *options)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                running.process.wait(20)
        for pid in running.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        running.process.wait()
        shutil.rmtree(directory)


async def kept_running(running: Demo) -> None:
    """Wait until the story is told."""
    await eventually(lambda: "until Ctrl-C" in running.said or running.process.poll() is not None, 60)
    assert "until Ctrl-C" in running.said, running.said


async def test_the_whole_story_is_right_and_nothing_is_left_of_it():
    with demo() as running:
        assert await asyncio.to_thread(running.process.wait, 60) == 0, running.said
        right, of = re.search(r"^(\d+) of (\d+) right", running.said, re.MULTILINE).groups()
        assert right == of == "14" and "WRONG" not in running.said
        for step in ("403, refused: intention", "spiffe://mesh.internal/svc/web", "POST /reports/2026", " cut "):
            assert step in running.said
        assert running.nothing_runs(), running.processes()
        assert running.left_behind() == []


async def test_kept_it_obeys_the_commands_that_it_prints_until_ctrl_c():
    with demo("--keep") as running:
        await kept_running(running)
        assert running.command("status").returncode == 0
        assert running.command("intention", "allow", "web", "payments").returncode == 0
        port, path = re.search(r"curl -iN http://127.0.0.1:(\d+)(/\S+)", running.said).groups()
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        async with asyncio.timeout(5):
            await reader.readuntil(b"tick 3\n")
        assert running.command("intention", "deny", "web", "payments").returncode == 0
        async with asyncio.timeout(5):
            await reader.read()
        writer.close()
        running.process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(running.process.wait, 20) == 0
        assert running.nothing_runs() and running.left_behind() == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
async def test_ended_in_the_middle_it_takes_everything_away(number, code):
    with demo() as running:
        await eventually(lambda: "meshagent up" in running.said, 30)
        running.process.send_signal(number)
        assert await asyncio.to_thread(running.process.wait, 20) == code, running.said
        assert running.nothing_runs() and running.left_behind() == []


async def test_an_agent_that_crashed_leaves_no_envoy_behind():
    with demo("--keep") as running:
        await kept_running(running)
        os.kill(running.find("demo.apps agent"), signal.SIGKILL)
        await asyncio.sleep(0.3)
        assert running.find("envoy"), "Envoy outlives its agent, which is why somebody has to end it"
        running.process.terminate()
        assert await asyncio.to_thread(running.process.wait, 20) == 143
        await eventually(running.nothing_runs, 5, str(running.processes()))
        assert running.left_behind() == []


async def test_killed_outright_its_processes_end_with_it():
    with demo("--keep") as running:
        await kept_running(running)
        assert len(running.processes()) >= 5
        running.process.kill()
        running.process.wait()
        await eventually(running.nothing_runs, 15, str(running.processes()))


@contextmanager
def app(kind: str, *options: str):
    port = free_port()
    words = [sys.executable, "-m", "meshagent.demo.apps", kind, "--name", "web", "--port", str(port), *options]
    process = subprocess.Popen(words, cwd=ROOT)
    try:
        until = time.monotonic() + 10
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.01)
        yield port, process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    "framed",
    [
        b"content-length: 5\r\n\r\nGET /",
        b"transfer-encoding: chunked\r\n\r\n3;a=b\r\nGET\r\n2\r\n /\r\n0\r\nx: y\r\n\r\n",
    ],
)
async def test_the_http_app_reads_past_a_body_on_a_connection_that_stays(framed):
    with app("http") as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /first HTTP/1.1\r\n" + framed + b"GET /second HTTP/1.1\r\n\r\n")
        said = b""
        async with asyncio.timeout(5):
            while b"/second" not in said:
                said += (data := await reader.read(4096))
                assert data, said
        assert said.count(b"HTTP/1.1 200 OK") == 2 and said.index(b"/first") < said.index(b"/second")
        writer.close()
        caller = Caller(port)
        assert (await caller.get("/health")).status == 200
        caller.close()


async def test_the_tcp_app_echoes():
    with app("tcp") as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"ping")
        assert await reader.readexactly(4) == b"ping"
        writer.close()


async def test_an_app_whose_parent_has_gone_does_not_begin():
    gone = subprocess.Popen(["/bin/true"])
    gone.wait()
    words = [sys.executable, "-m", "meshagent.demo.apps", "tcp", "--port", str(free_port()), "--parent", str(gone.pid)]
    process = subprocess.Popen(words, cwd=ROOT)
    assert await asyncio.to_thread(process.wait, 10) == 0
