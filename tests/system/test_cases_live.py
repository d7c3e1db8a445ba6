"""`meshagent policy test --live`: cases through real Envoys, in a mesh that is made for them and then gone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from meshagent.cli.policy_cases import live_outcomes, read
from tests.system.live import eventually

pytestmark = pytest.mark.timeout(240)
ROOT = Path(__file__).parents[2]
SETS = sorted(path for path in (ROOT / "policies").iterdir() if path.is_dir())

DOCUMENTS = """\
kind: service
name: payments
protocol: http2
subsets: {v1: {version: v1}, v2: {version: v2}}
---
kind: intention
name: payments
sources:
- name: web
  permissions: [{action: deny, http: {path_prefix: /admin}}, {action: allow, http: {path_prefix: /}}]
---
kind: route
name: payments
rules:
- {name: far, match: {regions: [us]}, to: [{subset: v2}]}
- {name: gone, match: {path_prefix: /gone}, respond: {status: 410}}
- {name: split, to: [{subset: v1, weight: 80}, {subset: v2, weight: 20}], timeout: 2s}
---
kind: intention
name: mail
sources: [{name: web, action: allow}]
---
kind: service
name: queue
protocol: tcp
subsets: {v1: {version: v1}, v2: {version: v2}}
---
kind: intention
name: queue
sources: [{name: web, action: allow}]
---
kind: route
name: queue
rules:
- to: [{subset: v1, weight: 70}, {subset: v2, weight: 30}]
---
kind: intention
name: dead
sources: [{name: web, action: allow}]
"""
CASES = """\
services:
- {name: payments, protocol: http2, instances: [{meta: {version: v1}}, {meta: {version: v2}}]}
- {name: queue, protocol: tcp, instances: [{meta: {version: v1}}, {meta: {version: v2}}]}
- {name: mail, protocol: grpc}
- {name: dead, protocol: http, instances: [{health: failing}]}
cases:
"""
RIGHT = """\
- {from: web, to: payments, request: {}, expect: allowed, route: split, goes_to: [{subset: v1, percent: 80}, {subset: v2}]}
- {from: web, to: payments, request: {}, region: us, route: far, goes_to: [{subset: v2, percent: 100}]}
- {from: web, to: payments, request: {method: HEAD, path: /x/%2e./admin}, expect: denied, rule: payments/web}
- {from: web, to: payments, request: {path: /a%2fb}, expect: denied, route: none}
- {from: web, to: payments, request: {headers: {x_a: b}}, expect: denied}
- {from: web, to: payments, request: {path: /gone}, respond: 410, route: gone}
- {from: batch, to: payments, request: {method: POST}, expect: denied, rule: mesh/default_action}
- {from: web, to: queue, expect: allowed, goes_to: [{subset: v1, percent: 70}, {subset: v2}]}
- {from: batch, to: queue, expect: denied}
- {from: web, to: mail, request: {method: POST, path: /mail.v1/Send, headers: {content-type: application/grpc}}, expect: allowed}
- {from: batch, to: mail, request: {method: POST, path: /mail.v1/Send, headers: {content-type: application/grpc}}, expect: denied}
"""
WRONG = """\
- {from: web, to: payments, request: {}, expect: denied, route: far}
- {from: web, to: payments, request: {}, goes_to: [{subset: v1, percent: 50}, {subset: v2, percent: 50}]}
- {from: web, to: payments, request: {path: /gone}, respond: 404}
- {from: web, to: queue, expect: denied}
- {from: batch, to: queue, expect: allowed}
- {from: web, to: dead, request: {}, expect: allowed}
"""


@pytest.mark.parametrize("sets", [SETS[:1], pytest.param(SETS[1:], marks=pytest.mark.long)], ids=["first", "rest"])
async def test_every_ready_set_passes_through_envoy(sets):
    for policies in sets:
        for each in await live_outcomes(*read([str(policies)])):
            assert not each.judged.misses and not each.differs, (each.judged.file, each)
            assert each.calls, each
            assert set(each.untold) <= {"rule", "route"}, each


async def test_what_holds_holds_what_is_wrong_fails_and_what_explain_does_not_know_is_told(tmp_path):
    (tmp_path / "documents.yaml").write_text(DOCUMENTS)
    (tmp_path / "all.cases.yaml").write_text(CASES + RIGHT + WRONG)
    found = await live_outcomes(*read([str(tmp_path)]))
    right, wrong = found[: RIGHT.count("\n")], found[RIGHT.count("\n") :]
    assert [each for each in right if each.judged.misses or each.differs or not each.calls] == []
    missed = [[miss.field for miss in each.judged.misses] for each in wrong]
    assert missed == [["expect", "route"], ["goes_to"], ["respond"], ["expect"], ["expect"], ["expect"]]
    assert [bool(each.differs) for each in wrong] == [False] * 5 + [True]
    dead = wrong[-1].differs[0]
    assert (dead.expected, dead.came) == ("allowed", "answered 503: it came to no app")
    assert right[0].calls >= 400 and wrong[0].calls >= 12


class Command:
    """`meshagent policy test --live` as a person runs it, with all that it makes below a directory."""

    def __init__(self, directory, *words):
        self.directory = directory
        (directory / "tmp").mkdir()
        environment = {**os.environ, "TMPDIR": str(directory / "tmp"), "MESHAGENT_CA_PROVIDER": "nowhere"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "meshagent", "policy", "test", "--live", *words],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    async def ended(self):
        """The exit code, and what it said on stdout and stderr."""
        out, err = await asyncio.to_thread(self.process.communicate, timeout=60)
        return self.process.returncode, out, err

    def running(self):
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if f"{self.directory}/tmp/" in line:
                    found.append(line)
        return found

    def left(self):
        return [path.name for path in (self.directory / "tmp").iterdir()] + self.running()


@pytest.fixture
def short_path():
    """A directory in whose own directories sockets still have names that are short enough."""
    with tempfile.TemporaryDirectory(prefix="live-") as directory:
        yield Path(directory)


async def test_the_command_tells_what_came_and_leaves_nothing(short_path):
    (short_path / "documents.yaml").write_text(DOCUMENTS)
    (short_path / "some.cases.yaml").write_text(CASES + RIGHT.splitlines()[5] + "\n" + WRONG.splitlines()[0] + "\n")
    command = Command(short_path, "-f", str(short_path), "-o", "json")
    code, out, err = await command.ended()
    assert code == 5, err
    assert "1 of 2 cases hold through Envoy; 0 differ from explain" in err
    held, failed = json.loads(out)
    assert held["holds"] and held["calls"] >= 12 and held["differs"] == []
    assert [each["field"] for each in failed["misses"]] == ["expect", "route"]
    assert failed["misses"][1] == {"field": "route", "expected": "far", "came": "2 (split)"}
    assert command.left() == []


async def test_ended_in_the_middle_it_leaves_nothing(short_path):
    command = Command(short_path, "-f", str(ROOT / "policies" / "canary"))
    await eventually(lambda: any("envoy" in line for line in command.running()), 30)
    command.process.send_signal(signal.SIGINT)
    assert (await command.ended())[0] == 130
    assert command.left() == []
