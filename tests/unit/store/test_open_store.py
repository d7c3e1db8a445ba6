from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from meshagent.errors import UsageProblem
from meshagent.store import STORES, open_store
from meshagent.store.base import Put


@pytest.mark.parametrize(
    "url", ["zookeeper://h:1", "mesh.db", "/var/lib/mesh.db", "sqlite:/mesh.db", "", "://", "SQLITE"]
)
async def test_an_unknown_store_is_a_usage_problem_that_names_the_known_ones(url: str) -> None:
    with pytest.raises(UsageProblem) as problem:
        await open_store(url)
    assert all(f"{scheme}://" in problem.value.next_step for scheme in STORES)


async def test_an_unknown_store_s_password_is_not_repeated() -> None:
    with pytest.raises(UsageProblem) as problem:
        await open_store("redis://user:hunter2@host/0")
    assert "hunter2" not in f"{problem.value} {problem.value.next_step}"


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///", "sqlite://mesh.db", "sqlite:///a/", "sqlite:///a?mode=ro", "sqlite:///a#b"]
)
async def test_an_sqlite_url_without_an_absolute_path_is_a_usage_problem(url: str) -> None:
    with pytest.raises(UsageProblem) as problem:
        await open_store(url)
    assert "sqlite:///" in problem.value.next_step


async def test_a_url_names_the_file_even_with_odd_letters(tmp_path: Path) -> None:
    store = await open_store(f"sqlite://{tmp_path}/a%20b%3Fc.db")
    await store.commit([Put("a", b"1")])
    await store.close()

    assert (tmp_path / "a b?c.db").is_file()


def test_every_store_of_the_table_has_its_opener() -> None:
    for target in STORES.values():
        module, _, opener = target.partition(":")
        assert callable(getattr(importlib.import_module(module), opener))
