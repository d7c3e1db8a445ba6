"""What a Nomad client does with a group of a job file, as far as its tasks can tell, for tests: no scheduler, no isolation.

Directories with Nomad's modes, the environment, templates, workload identities in files and renewed there, prestart
sidecars before the others and after them at the end, signals and their patience. Nomad itself is in none of the package
registries, so this stands in for it and says so.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from tests.nomad.jobfile import Block

_PIECE = re.compile(r"\{\{\s*(.*?)\s*\}\}")
_ENV = re.compile(r'env "(\w+)"')
_VARIABLE = re.compile(r'\{\{ with nomadVar "([^"]+)" \}\}\{\{ \.(\w+) \}\}\{\{ end \}\}')
_LATER = re.compile(r"\$\{(NOMAD_\w+)\}")
_OPEN_TO_ALL = 0o777  # as Nomad makes local/ and secrets/; the allocation's own directory is closed


class Allocation:
    """`ports` gives each port's label its address and number; `stored` are Nomad's variables; `vouch` makes the JWTs."""

    def __init__(
        self,
        job: Block,
        folder: Path,
        ports: Mapping[str, tuple[str, int]],
        stored: Mapping[str, Mapping[str, str]],
        vouch: Callable[[str, str, str], str],
        programs: Mapping[str, list[str]],
        within: tuple[str, ...] = (),
    ) -> None:
        self.id = str(uuid.uuid4())
        self.job, self.group = job, job.one("group")
        self.folder = folder / self.id
        self._ports, self._stored, self._vouch = ports, stored, vouch
        self._programs, self._within = programs, within
        self.running: dict[str, asyncio.subprocess.Process] = {}

    async def start(self) -> None:
        """Prestart sidecars, then the rest, then what waits for them."""
        self.folder.mkdir(parents=True, mode=0o711)
        for hook in ("prestart", "", "poststart"):
            for task in self._tasks(hook):
                await self._start(task)

    async def stop(self) -> None:
        """The main tasks first, then the sidecars, each with its signal and its patience; what is to come after, at last."""
        for hook in ("", "poststart", "prestart"):
            for task in self._tasks(hook):
                await self._stop(task)
        for task in self._tasks("poststop"):
            await self._start(task)
            assert await self.running[task.labels[0]].wait() == 0

    async def signal(self, task: str, number: signal.Signals) -> None:
        """As `nomad alloc signal`."""
        self.running[task].send_signal(number)

    async def kill(self, task: str) -> None:
        """The task dies, and Nomad starts it again."""
        process = self.running.pop(task)
        process.kill()
        await process.wait()
        (block,) = (each for each in self.group.all("task") if each.labels[0] == task)
        await self._start(block)

    def clear(self) -> None:
        """End everything that still runs out of the allocation's directory, as the end of its cgroup would."""
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and str(self.folder).encode() in (entry / "cmdline").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)

    def renew(self) -> None:
        """Identities anew, as at half of their life: a new file in the place of the old one."""
        for task in self.group.all("task"):
            self._write_identities(task)

    def log(self, task: str) -> str:
        """What a task said."""
        return (self.folder / f"{task}.log").read_text()

    def secrets(self, task: str) -> Path:
        """Where a task's secrets are."""
        return self.folder / task / "secrets"

    def _tasks(self, hook: str) -> list[Block]:
        def of(task: Block) -> str:
            found = task.all("lifecycle")
            return str(found[0].attributes["hook"]) if found else ""

        return [task for task in self.group.all("task") if of(task) == hook]

    async def _start(self, task: Block) -> None:
        name = task.labels[0]
        for each in ("local", "secrets", "tmp"):
            place = self.folder / name / each
            place.mkdir(parents=True, exist_ok=True)
            place.chmod(_OPEN_TO_ALL)
        self._write_identities(task)
        for template in task.all("template"):
            self._write_template(task, template)
        config = task.one("config").attributes
        command, *args = (self._later(task, each) for each in (config["command"], *config.get("args", [])))
        words = [*self._within, *self._programs.get(command, [command]), *args]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = await asyncio.create_subprocess_exec(
                *words, env=self._environment(task), stdout=log, stderr=log, cwd=self.folder / name
            )

    async def _stop(self, task: Block) -> None:
        process = self.running.pop(task.labels[0], None)
        if process is None or process.returncode is not None:
            return
        process.send_signal(getattr(signal, task.attributes.get("kill_signal", "SIGINT")))
        patience = float(task.attributes.get("kill_timeout", "5s").removesuffix("s"))
        try:
            await asyncio.wait_for(process.wait(), patience)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise AssertionError(f"{task.labels[0]} did not end within {patience} s") from None

    def _environment(self, task: Block) -> dict[str, str]:
        place = self.folder / task.labels[0]
        found = {
            "PATH": os.environ["PATH"],
            "NOMAD_ALLOC_ID": self.id,
            "NOMAD_SHORT_ALLOC_ID": self.id.partition("-")[0],
            "NOMAD_ALLOC_INDEX": "0",
            "NOMAD_JOB_NAME": self.job.labels[0],
            "NOMAD_GROUP_NAME": self.group.labels[0],
            "NOMAD_TASK_NAME": task.labels[0],
            "NOMAD_TASK_DIR": str(place / "local"),
            "NOMAD_SECRETS_DIR": str(place / "secrets"),
        }
        for label, (address, number) in self._ports.items():
            for before in ("NOMAD_", "NOMAD_HOST_"):
                found |= {f"{before}IP_{label}": address, f"{before}PORT_{label}": str(number)}
        return found

    def _later(self, task: Block, text: str) -> str:
        return _LATER.sub(lambda found: self._environment(task)[found[1]], text)

    def _write_identities(self, task: Block) -> None:
        for identity in task.all("identity"):
            asked = identity.attributes
            name = asked.get("name", "default")
            file = f"nomad_{name}.jwt" if name != "default" else "nomad_token"
            token = self._vouch(self.job.labels[0], task.labels[0], asked["aud"][0])
            _replace(self.secrets(task.labels[0]) / file, token, 0o600)

    def _write_template(self, task: Block, template: Block) -> None:
        asked = template.attributes
        environment = self._environment(task)

        def env(found: re.Match[str]) -> str:
            name = _ENV.fullmatch(found[1])
            assert name, f"this stand-in for Nomad does not know {found[0]}"
            return environment[name[1]]

        text = _VARIABLE.sub(lambda found: self._stored[found[1]][found[2]], asked["data"])
        place = self.folder / task.labels[0] / asked["destination"]
        place.parent.mkdir(parents=True, exist_ok=True)
        _replace(place, _PIECE.sub(env, text), int(asked.get("perms", "0644"), 8))
        if isinstance(uid := asked.get("uid"), int):
            os.chown(place, uid, -1)


def _replace(place: Path, text: str, mode: int) -> None:
    new = place.with_name(f".{place.name}.new")
    new.write_text(text)
    new.chmod(mode)
    new.replace(place)
