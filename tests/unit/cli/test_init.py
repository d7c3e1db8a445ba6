"""`meshagent init`: a new mesh, once."""

from __future__ import annotations

import asyncio

import pytest

from meshagent.state.keys import Keys
from meshagent.state.records import BundleRecord, decode
from meshagent.store.sqlite import open_sqlite
from tests.unit.cli.conftest import Commands


@pytest.fixture
def empty(env, tmp_path):
    """Commands on a store that does not exist yet, in a directory that only we can write."""
    tmp_path.chmod(0o700)
    own = {"MESHAGENT_STORE": f"sqlite://{tmp_path}/new.db", "MESHAGENT_DATA_DIR": str(tmp_path / "data")}
    return Commands(env | own)


def bundle(path):
    async def read():
        store = await open_sqlite(path)
        try:
            entry = (await store.read(Keys().bundle)).entries[Keys().bundle]
            return decode(BundleRecord, entry.value).roots
        finally:
            await store.close()

    return asyncio.run(read())


def test_a_new_mesh_denies_by_default_and_knows_the_roots_of_its_ca(empty, tmp_path):
    done = empty.run("init")
    assert done.stdout == f"mesh mesh.internal is set up in sqlite://{tmp_path}/new.db: default deny\n"
    (root,) = bundle(tmp_path / "new.db")["mesh.internal"]
    assert root == (tmp_path / "data/ca/root.pem").read_text()
    assert empty.json("status")["mesh"]["default_action"] == "deny"


def test_what_is_told_is_what_is_set_up(empty):
    value = empty.json("init", "--trust-domain", "shop.example", "--default-action", "allow")
    assert (value["trust_domain"], value["default_action"], value["roots"]) == ("shop.example", "allow", 1)


def test_a_store_that_holds_a_mesh_is_left_as_it_is(empty, tmp_path):
    empty.run("init")
    before = bundle(tmp_path / "new.db")
    refused = empty.run("init", "--trust-domain", "other.example", code=1)
    assert "there is a mesh already" in refused.stderr
    assert "meshagent status" in refused.stderr
    assert bundle(tmp_path / "new.db") == before


def test_a_trust_domain_that_is_none_is_a_usage_error_and_makes_nothing(empty, tmp_path):
    refused = empty.run("init", "--trust-domain", "UPPER/case", code=2)
    assert "--trust-domain" in refused.stderr
    assert not (tmp_path / "new.db").exists()
