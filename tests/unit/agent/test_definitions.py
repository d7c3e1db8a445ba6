"""The services that files say are registered, and go when no file says them any more."""

from __future__ import annotations

import asyncio

import pytest

from meshagent.agent.definitions import Definitions
from meshagent.agent.roster import Roster


@pytest.fixture
def roster(tmp_path):
    tmp_path.chmod(0o700)
    return Roster(tmp_path / "services.json", "127.0.0.1", 21000, lambda: None)


class Files:
    """services.d, and what was taken out of service."""

    def __init__(self, path, roster):
        self.path, self.gone = path, []
        path.mkdir()
        self.definitions = Definitions(path, roster, self.down)

    async def down(self, service, instance):
        self.gone.append((service, instance))

    def say(self, name, text):
        (self.path / name).write_text(text)
        self.definitions.load()

    async def retired(self):
        task = asyncio.create_task(self.definitions.run())
        await asyncio.sleep(0)
        task.cancel()
        return self.gone


@pytest.fixture
def files(tmp_path, roster):
    return Files(tmp_path / "services.d", roster)


async def test_a_bad_file_keeps_no_other_service_from_being_registered_and_takes_none_out(files, roster):
    files.say("web.yaml", "name: web\nport: 80\n")
    files.say("bad.yaml", "name: [\n")
    assert set(roster.registered) == {("web", "web")}
    (files.path / "web.yaml").unlink()
    files.definitions.load()
    assert await files.retired() == []


async def test_what_no_file_says_any_more_is_taken_out_and_what_was_registered_otherwise_stays(files, roster):
    files.say("two.yaml", "name: web\nport: 80\n---\nname: api\nport: 81\n")
    registered = roster.registered["web", "web"].definition
    roster.add(registered.model_copy(update={"name": "own", "port": 82}), "api")
    files.say("two.yaml", "name: web\nport: 80\n")
    assert await files.retired() == [("api", "api")]


def test_without_a_directory_nothing_is_said(tmp_path, roster):
    Definitions(tmp_path / "none", roster, lambda *_: asyncio.sleep(0)).load()
    assert not roster.registered
