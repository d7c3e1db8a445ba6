"""vm-demo/up.sh as a person runs it: what it says is right, on Consul and on etcd, and down.sh leaves nothing of it.

Both demos run at the same time, each under a name of its own. Needs root.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from tests.servers.programs import program

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "vm-demo"
NAMESPACES = ("net", "vm-1", "vm-2", "vm-3")


class Demo:
    """One demo, under a name of its own."""

    def __init__(self, directory: Path, name: str, store: str) -> None:
        self.tag = f"meshdemo-{name}-{os.getpid()}"
        self.state = Path("/run") / self.tag
        self.store = store
        self.output = directory / f"{name}.out"
        self.environment = {**os.environ, "MESHDEMO": self.tag, "MESHDEMO_PATH": str(directory / "bin")}
        self.process: subprocess.Popen[bytes] | None = None

    def up(self) -> subprocess.Popen[bytes]:
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [DEMO / "up.sh", "--store", self.store],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self.process

    def run(self, script: str, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [DEMO / script, *words], env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )

    @property
    def said(self) -> str:
        return self.output.read_text()

    def namespaces(self) -> list[str]:
        return [name for name in NAMESPACES if Path(f"/run/netns/{self.tag}-{name}").exists()]

    def processes(self) -> dict[int, str]:
        """What runs in its namespaces, and what runs for it outside of them."""
        spaces = set()
        for name in self.namespaces():
            with suppress(OSError):
                spaces.add(Path(f"/run/netns/{self.tag}-{name}").stat().st_ino)
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                ours = f"MESHDEMO={self.tag}\0".encode() in (entry / "environ").read_bytes()
                if ours or (entry / "ns/net").stat().st_ino in spaces:
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def assert_nothing_left(self, were: dict[int, str]) -> None:
        assert self.namespaces() == []
        assert not self.state.exists()
        until(lambda: not self.processes(), 5, self.processes)
        for pid, line in were.items():
            with suppress(OSError):
                now = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                assert now != line or not line, line


def until(condition: Callable[[], bool], seconds: float, evidence: Callable[[], object] = str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, (seconds, evidence())
        time.sleep(0.05)


def outside() -> tuple[str, ...]:
    """What of this machine a demo could have changed: links, routes, rules, forwarding."""
    asked = (("ip", "-o", "link"), ("ip", "route", "show", "table", "all"), ("ip", "rule"), ("nft", "list", "ruleset"))
    said = [subprocess.run(words, capture_output=True, text=True, check=True).stdout for words in asked]
    return (*said, Path("/proc/sys/net/ipv4/ip_forward").read_text(), Path("/etc/hosts").read_text())


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A directory with a bin in which `meshagent` is this checkout's, and `python3` has what it needs."""
    made = Path(tempfile.mkdtemp(prefix="vm-demo-"))
    servers = {str(Path(program(name)).parent) for name in ("consul", "etcd", "etcdctl")}
    assert servers <= {str(ROOT / ".servers/usr/bin"), *os.environ["PATH"].split(":")}
    (made / "bin").mkdir()
    for name, words in (("python3", ""), ("meshagent", "-m meshagent")):
        script = made / "bin" / name
        script.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} {words} "$@"\n')
        script.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def told(directory: Path) -> Iterator[dict[str, Demo]]:
    """Two demos that have told their story and go on running."""
    demos = {store: Demo(directory, store, store) for store in ("consul", "etcd")}
    try:
        for demo in demos.values():
            demo.up()
        for demo in demos.values():
            assert demo.process
            demo.process.wait(600)
        yield demos
    finally:
        for demo in demos.values():
            demo.run("down.sh")


@pytest.fixture
def another(directory: Path) -> Iterator[Demo]:
    demo = Demo(directory, "short", "consul")
    try:
        yield demo
    finally:
        demo.run("down.sh")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("store", ["consul", "etcd"])
def test_every_observation_of_the_story_is_right(told, store):
    demo = told[store]
    assert demo.process.returncode == 0, demo.said
    right, of = re.search(r"^(\d+) of (\d+) right", demo.said, re.MULTILINE).groups()
    assert right == of and int(of) >= 21 and "WRONG" not in demo.said, demo.said
    for step in ("PERMISSION_DENIED", "URI:spiffe://mesh.internal/svc/api", "alert certificate required", "20 v2"):
        assert step in demo.said


@pytest.mark.timeout(900)
def test_it_goes_on_running_a_second_one_says_so_and_down_leaves_nothing(told):
    demo = told["consul"]
    before = outside()
    assert '"text": "hello"' in demo.run("in", "vm-1", "curl", "-s", "http://127.0.0.1:8080/").stdout
    again = demo.run("up.sh")
    assert again.returncode == 1 and "one runs already" in again.stderr and "down.sh" in again.stderr
    assert demo.run("in", "vm-2", "meshagent", "status").returncode == 0
    assert demo.run("in", "vm-4", "true").returncode == 1
    were = demo.processes()
    assert sum("envoy" in line for line in were.values()) >= 3 and len(were) > 15
    assert demo.run("down.sh").returncode == 0
    demo.assert_nothing_left(were)
    assert outside() == before
    gone = demo.run("in", "vm-1", "true")
    assert gone.returncode == 1 and "no demo runs" in gone.stderr
    other = told["etcd"]
    assert '"text": "hello"' in other.run("in", "vm-1", "curl", "-s", "http://127.0.0.1:8080/").stdout, (
        "it was not its own"
    )


def test_ended_in_the_middle_it_takes_everything_away_itself(another):
    process = another.up()
    until(lambda: "1. A mesh" in another.said, 180)
    were = another.processes()
    assert len(were) > 9
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143, another.said
    another.assert_nothing_left(were)


def test_killed_outright_while_it_makes_its_vms_down_takes_the_half_away(another):
    process = another.up()
    until((another.state / "vm-1.pid").exists, 90)
    process.kill()
    process.wait()
    assert another.namespaces()
    assert another.run("up.sh").returncode == 1
    were = another.processes()
    assert another.run("down.sh").returncode == 0
    another.assert_nothing_left(were)
    assert another.run("down.sh").returncode == 0


def test_down_ends_one_that_is_still_at_it(another):
    process = another.up()
    until(another.state.exists, 90)
    assert another.run("down.sh").returncode == 0
    assert process.wait(10) == -signal.SIGKILL
    another.assert_nothing_left({})


def test_one_wrong_observation_is_a_failure_that_is_named():
    told = '. ./places.sh; . ./telling.sh; saw "the sky" blue blue; saw "the grass" green "$1"; closing'
    wrong, right = (
        subprocess.run(["bash", "-c", told, "_", seen], cwd=DEMO, capture_output=True, text=True, check=False)
        for seen in ("red", "green")
    )
    assert wrong.returncode == 1 and re.search(r"WRONG +the grass +green +but: red", wrong.stdout)
    assert right.returncode == 0 and "2 of 2 right" in right.stdout


@pytest.mark.parametrize("script", ["up.sh", "down.sh", "in"])
def test_without_root_it_says_so_in_a_line_with_the_next_step(script):
    with tempfile.TemporaryDirectory() as directory:
        shutil.copytree(DEMO, Path(directory) / "vm-demo")
        Path(directory).chmod(0o755)
        words = [Path(directory) / "vm-demo" / script, *(["vm-1", "true"] if script == "in" else [])]
        done = subprocess.run(words, capture_output=True, text=True, check=False, user=65534, group=65534)
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert "root" in first and second.startswith("next:") and "sudo" in second


def test_a_store_that_is_unknown_is_refused_before_anything_is_made():
    done = subprocess.run([DEMO / "up.sh", "--store", "zookeeper"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "zookeeper" in done.stderr and "--store consul" in done.stderr
    assert subprocess.run([DEMO / "up.sh", "--nonsense"], capture_output=True, check=False).returncode == 2


def test_what_is_for_real_vms_names_scripts_that_are_there():
    cloud = (DEMO / "cloud-init.yaml").read_text()
    assert cloud.startswith("#cloud-config\n")
    told = yaml.safe_load(cloud)
    assert set(told) == {"hostname", "manage_etc_hosts", "ssh_authorized_keys", "packages", "runcmd"}
    called = [word for line in told["runcmd"] for word in line] + (DEMO / "Vagrantfile").read_text().split('"')
    scripts = [word.split()[0] for word in called if word.startswith("/opt/meshagent/")]
    assert len(scripts) == 2
    for script in scripts:
        assert os.access(ROOT / script.removeprefix("/opt/meshagent/"), os.X_OK), script
    for name in ("prepare.sh", "walk.sh", "up.sh", "down.sh", "in", "vm/boot", "vm/store", "vm/apps"):
        assert os.access(DEMO / name, os.X_OK), name


def test_the_page_shows_the_end_of_the_output_that_is_kept_beside_it():
    page, kept = ((DEMO / name).read_text() for name in ("README.md", "expected-output.txt"))
    shown = re.search(r"```\n(What was observed\n.*?)\n```", page, re.DOTALL).group(1)
    assert shown in kept
    steps = re.findall(r'saw "([^"$]+)"', (DEMO / "walk.sh").read_text())
    assert len(steps) > 20
    for step in steps:
        assert f" {step} " in shown, step
