"""A mesh is copied into every kind of store and back, with nothing lost on the way."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from meshagent.model.identity import TrustBundle
from meshagent.model.intention import Intention, IntentionSource
from meshagent.model.mesh import Mesh
from meshagent.model.world import Stated
from meshagent.state.changes import Author, change, read_documents
from meshagent.state.copying import copy_mesh
from meshagent.state.foundation import lay_foundation
from meshagent.state.keys import Keys
from meshagent.state.signing import UNSIGNED, Signing, Trust, new_signer
from meshagent.store.sqlite import open_sqlite

AUTHOR = Author("ann@vm-1", datetime(2026, 11, 21, tzinfo=UTC))
SIGNER = new_signer()[0]


def says(action, count):
    source = IntentionSource(name="web", action=action, reason="x" * 200)
    return {("intention", f"s{n}"): Stated(Intention(name=f"s{n}", sources=(source,))) for n in range(count)}


@pytest.mark.parametrize("signing", [UNSIGNED, Signing(SIGNER, Trust.of(SIGNER.public))], ids=["unsigned", "signed"])
async def test_a_mesh_of_several_transactions_goes_there_and_back(store, root, tmp_path, signing):
    keys = Keys(root, signed=bool(signing.trust))
    first, last = await open_sqlite(tmp_path / "first.db"), await open_sqlite(tmp_path / "last.db")
    try:
        await lay_foundation(first, keys, Mesh(), TrustBundle((("mesh.internal", ("PEM",)),)), AUTHOR, signing)
        await change(first, keys, lambda _: says("allow", 150), AUTHOR, signing)
        assert (await copy_mesh(first, store, keys, signing, dry_run=False)).documents == 151
        await change(first, keys, lambda _: says("deny", 70), AUTHOR, signing)
        plan = await copy_mesh(first, store, keys, signing, dry_run=False)
        assert (plan.before, plan.revision) == (2, 3)
        assert (await copy_mesh(first, store, keys, signing, dry_run=False)).writes == 0
        await copy_mesh(store, last, keys, signing, dry_run=False)
        found = [await read_documents(each, keys, signing.trust) for each in (first, store, last)]
        assert found[0] == found[1] == found[2] and len(found[0][1]) == 151 and not found[0][2]
        assert (await change(store, keys, lambda _: says("deny", 150), AUTHOR, signing)).revision == 4
    finally:
        await first.close()
        await last.close()
