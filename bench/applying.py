"""The processor time of `meshagent policy apply` for a directory of 1,000 documents, into a mesh in SQLite."""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import yaml

from meshagent.ca.builtin import open_builtin
from meshagent.model.mesh import Mesh
from meshagent.state.changes import Author
from meshagent.state.foundation import lay_foundation
from meshagent.state.keys import Keys
from meshagent.store.sqlite import open_sqlite

DOCUMENTS = 1000
RUNS = 5


def documents(count: int) -> list[dict]:
    """A third each of services, of their routes, and of intentions with four sources, one of them by request."""
    found: list[dict] = []
    number = 0
    while len(found) < count:
        name, number = f"svc-{number}", number + 1
        pool = {"max_requests": 1000, "connect_timeout": "1s"}
        subsets = {each: {"version": each} for each in ("v1", "v2")}
        found.append({"kind": "service", "name": name, "protocol": "http", "subsets": subsets, "connection_pool": pool})
        split = [{"subset": "v1", "weight": 90}, {"subset": "v2", "weight": 10}]
        rules = [
            {"name": "new", "match": {"path_prefix": "/new"}, "to": [{"subset": "v2"}]},
            {"to": split, "timeout": "2s"},
        ]
        found.append({"kind": "route", "name": name, "rules": rules})
        callers = [{"name": f"svc-{(number + each) % (count // 3)}", "action": "allow"} for each in range(3)]
        reader = {"action": "allow", "http": {"path_prefix": "/reports", "methods": ["GET"]}}
        sources = [*callers, {"name": "reader", "permissions": [reader]}]
        found.append({"kind": "intention", "name": name, "sources": sources})
    return found[:count]


def write(directory: Path, count: int = DOCUMENTS) -> None:
    """The documents as people keep them: a file for each service."""
    directory.mkdir(parents=True)
    files: dict[str, list[dict]] = {}
    for each in documents(count):
        files.setdefault(each["name"], []).append(each)
    for name, held in files.items():
        (directory / f"{name}.yaml").write_text(yaml.safe_dump_all(held, sort_keys=False))


async def found(store: Path, authority: Path) -> None:
    """A mesh without documents."""
    opened = await open_sqlite(store)
    try:
        now = datetime.now(UTC)
        bundle = await open_builtin(authority, "mesh.internal", clock=lambda: now).bundle()
        await lay_foundation(opened, Keys(), Mesh(), bundle, Author("bench", now))
    finally:
        await opened.close()


async def apply(store: Path, policies: Path) -> tuple[int, float, float]:
    """(exit code, seconds of processor time, seconds in all) of one command."""
    command = [
        sys.executable,
        "-m",
        "meshagent",
        "policy",
        "apply",
        "-f",
        str(policies),
        "--store",
        f"sqlite://{store}",
    ]
    installed = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    began, before = time.perf_counter(), os.times()
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, env=installed
    )
    _, said = await process.communicate()
    after = os.times()
    if process.returncode not in (0, 3):
        raise AssertionError(said.decode())
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return process.returncode, spent, time.perf_counter() - began


def control() -> float:
    """Seconds of processor time of a loop that is always the same: half a second on an idle machine."""
    began = time.process_time()
    total = 0
    for number in range(10_000_000):
        total += number
    return time.process_time() - began


async def run() -> dict:
    """Seconds: into an empty mesh, once more with nothing to do, with one bad document, and of a single document.

    What a single document costs is the start of a command: Python, and the modules that it needs.
    """
    names = ("control", "into an empty mesh", "again, nothing to change", "one is bad", "a single document instead")
    rows: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="applying-") as name:
        policies = Path(name, "policies")
        write(policies)
        single = Path(name, "single.yaml")
        single.write_text(yaml.safe_dump(documents(DOCUMENTS)[0]))
        for turn in range(RUNS):
            rows["control"].append(control())
            store = Path(name, f"mesh-{turn}.db")
            await found(store, Path(name, f"ca-{turn}"))
            bad = policies / "svc-17.yaml"
            good = bad.read_text()
            bad.write_text(good.replace("action: allow", "action: alow", 1))
            code, spent, _ = await apply(store, policies)
            rows["one is bad"].append(spent)
            assert code == 3
            bad.write_text(good)
            other = Path(name, f"single-{turn}.db")
            await found(other, Path(name, f"single-ca-{turn}"))
            code, spent, _ = await apply(other, single)
            rows["a single document instead"].append(spent)
            assert code == 0
            for row in ("into an empty mesh", "again, nothing to change"):
                code, spent, _ = await apply(store, policies)
                rows[row].append(spent)
                assert code == 0
    result = {row: {"CPU s, median": statistics.median(times), "all": times} for row, times in rows.items()}
    for row, values in result.items():
        print(f"{DOCUMENTS} documents, {row:28s} {values['CPU s, median']:.2f} s of CPU")
    return result
