"""Signed policy on every kind of store: what a watcher is told always fits together, and what is put past it never counts."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime

import pytest

from meshagent.errors import SignatureRefused
from meshagent.model.identity import TrustBundle
from meshagent.model.intention import Intention, IntentionSource
from meshagent.model.mesh import Mesh
from meshagent.model.world import Stated
from meshagent.state.changes import Author, change, read_documents
from meshagent.state.fold import Fold
from meshagent.state.foundation import lay_foundation
from meshagent.state.keys import Interest, Keys
from meshagent.state.signing import UNSIGNED, Signing, Trust, new_signer
from meshagent.store.base import Changes, Put

AUTHOR = Author("ann@vm-1", datetime(2026, 11, 21, tzinfo=UTC))
SIGNER = new_signer()[0]
ANN = Signing(SIGNER, Trust.of(SIGNER.public))
SERVICES = frozenset({"payments", "ledger"})
ROUNDS = 12


def says(number):
    """Two destinations at once, and a third one that is nobody's here."""
    source = IntentionSource(name="web", action="deny" if number % 2 else "allow")
    return {("intention", name): Stated(Intention(name=name, sources=(source,))) for name in (*SERVICES, f"x{number}")}


async def test_a_watcher_of_signed_policy_is_never_told_what_does_not_fit_together(store, root):
    keys = Keys(root, signed=True)
    await lay_foundation(store, keys, Mesh(), TrustBundle(), AUTHOR, ANN)
    interest = Interest(SERVICES)
    fold = Fold(keys, interest, None, ANN.trust)
    before = await store.read(*interest.prefixes(keys))
    fold.add(Changes(before.revision, tuple(before.entries.values()), full=True))

    async def write():
        for number in range(ROUNDS):
            await change(store, keys, lambda _, number=number: says(number), AUTHOR, ANN)

    writing = asyncio.create_task(write())
    async with asyncio.timeout(30), aclosing(store.watch(interest.prefixes(keys), after=before.revision)) as watch:
        while fold.world.revision < 1 + ROUNDS:
            fold.add(await anext(watch))
            assert not fold.problems
            held = {stated.thing.sources[0].action for stated in fold.world.intentions.values()}
            assert len(held) == min(1, len(fold.world.intentions))
    await writing
    assert {name: stated.thing.sources[0].action for name, stated in fold.world.intentions.items()} == dict.fromkeys(
        SERVICES, "deny"
    )


async def test_what_is_written_past_the_key_is_refused_on_every_store(store, root):
    keys = Keys(root, signed=True)
    await lay_foundation(store, keys, Mesh(), TrustBundle(), AUTHOR, ANN)
    await change(store, keys, lambda _: says(1), AUTHOR, ANN)
    with pytest.raises(SignatureRefused):
        await change(store, keys, lambda _: says(2), AUTHOR, UNSIGNED)
    key = keys.document("intention", "payments")
    held = (await store.read(key)).entries[key].value
    await store.commit([Put(key, held.replace(b'"deny"', b'"allow"'))])
    _, documents, problems = await read_documents(store, keys, ANN.trust)
    assert ("intention", "payments") not in documents and set(problems) == {key}
