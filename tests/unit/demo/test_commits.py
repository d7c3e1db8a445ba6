"""When policy changed, as another process of the mesh sees it."""

from __future__ import annotations

import threading
import time

from meshagent.demo.commits import Commits
from meshagent.state.keys import Keys
from meshagent.store.base import Put
from meshagent.store.sqlite import open_sqlite

MANIFEST = Keys().manifest


async def test_each_change_of_policy_has_its_moment_and_nothing_else_has(tmp_path):
    file = tmp_path / "mesh.db"
    store = await open_sqlite(file)
    await store.commit([Put(MANIFEST, b"1")])
    with Commits(f"sqlite://{file}") as commits:
        began = time.monotonic()
        assert commits.first_since(0) is None, "what was there before is no change"
        await store.commit([Put(Keys().report("vm-1"), b"a host reports")])
        await store.commit([Put(MANIFEST, b"2")])
        first = seen_after(commits, began)
        await store.commit([Put(MANIFEST, b"3")])
        second = seen_after(commits, first + 1e-9)
        assert began <= first < second <= time.monotonic()
        assert commits.first_since(began) == first
    await store.close()
    assert "commits" not in {thread.name for thread in threading.enumerate()}


def test_it_ends_also_when_nothing_ever_changed(tmp_path):
    with Commits(f"sqlite://{tmp_path}/mesh.db") as commits:
        assert commits.first_since(0) is None


def seen_after(commits, moment):
    """The moment of the change, once the watch has told it."""
    until = time.monotonic() + 10
    while (seen := commits.first_since(moment)) is None:
        assert time.monotonic() < until
        threading.Event().wait(0.001)
    return seen
