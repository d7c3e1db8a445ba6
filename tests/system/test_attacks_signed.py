"""Attack test 37: a store's administrator against a mesh whose policy is signed, with a real agent and Envoy."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import SimpleNamespace

from meshagent.model.intention import Intention, IntentionSource
from meshagent.model.world import Stated
from meshagent.state.changes import Author, change
from meshagent.state.records import Manifest, PolicyRecord, decode, encode
from meshagent.state.resign import sign_policy
from meshagent.state.signing import Signing, Trust, new_signer, public_text
from meshagent.store.base import Delete, Put
from tests.system.apps import HttpApp, get
from tests.system.live import KEYS, eventually, free_port, live_mesh

KEY = KEYS.document("intention", "payments")
ANN, EVE = (Signing(signer, Trust.of(signer.public)) for signer, _ in (new_signer(), new_signer()))
USUAL = {"web": 200, "orders": 403}


@asynccontextmanager
async def signed_shop(tmp_path, monkeypatch):
    """payments (http), which web may call and orders may not, as Ann signed it; the agent holds Ann's public key."""
    monkeypatch.setenv("MESHAGENT_POLICY_PUBLIC_KEYS", public_text(ANN.signer.public))
    async with live_mesh(url=f"sqlite://{tmp_path}/mesh.db") as mesh:
        await sign_policy(mesh.store, KEYS, author(), ANN, adopt=True)
        agent = await mesh.agent()
        local, port = {source: free_port() for source in USUAL}, free_port()
        async with HttpApp(port, "app") as app:
            await agent.up(name="payments", port=port, protocol="http")
            for source, at in local.items():
                upstreams = [{"service": "payments", "local_port": at}]
                await agent.up(name=source, port=free_port(), protocol="http", upstreams=upstreams)
            it = SimpleNamespace(mesh=mesh, agent=agent, local=local, app=app)
            await says(it, web="allow", orders="allow")
            await says(it, web="allow", orders="deny")
            assert await verdicts(it) == USUAL and not agent.status()["problems"]
            yield it


def author():
    return Author("ann", datetime.now(UTC))


async def says(it, **sources):
    """Ann's own change, once it is in force."""
    document = Intention(name="payments", sources=tuple(IntentionSource(name=n, action=a) for n, a in sources.items()))
    edit = {("intention", "payments"): Stated(document)}
    applied = await change(it.mesh.store, KEYS, lambda _: edit, author(), ANN)
    await it.mesh.applied(applied.revision)


async def verdicts(it):
    return {source: (await get(port)).status for source, port in it.local.items()}


async def becomes(it, wanted):
    """Wait until the sources are answered so; orders is refused all the while."""
    async with asyncio.timeout(10):
        while (found := await verdicts(it)) != wanted:
            assert found["orders"] != 200
            await asyncio.sleep(0.05)


async def raw(it, key):
    return (await it.mesh.store.read(key)).entries[key].value


async def names(it, key, problem):
    await eventually(lambda: problem in it.agent.status()["problems"].get(key, ""), 5, it.agent.tail())


def opened(value):
    """The record with orders allowed, and its signature as it was."""
    record = decode(PolicyRecord, value)
    return record.model_copy(update={"document": json.loads(json.dumps(record.document).replace("deny", "allow"))})


async def test_attack_37_a_store_admin_cannot_change_signed_policy(tmp_path, monkeypatch):
    async with signed_shop(tmp_path, monkeypatch) as it:
        store, held, manifest = it.mesh.store, await raw(it, KEY), await raw(it, KEYS.manifest)
        now = decode(Manifest, manifest)
        newer = opened(held).model_copy(update={"revision": now.revision + 1, "signature": ""})
        moved = Manifest(revision=now.revision + 1, index=now.index)
        for writes, key, problem in (
            ([Put(KEY, encode(opened(held)))], KEY, "does not fit its place and content"),
            ([Put(KEY, encode(EVE.sign(KEY, opened(held))))], KEY, "not trusted here"),
            ([Put(KEY, encode(newer)), Put(KEYS.manifest, encode(moved))], KEYS.manifest, "is not signed"),
            ([Put(KEYS.manifest, encode(EVE.sign(KEYS.manifest, moved)))], KEYS.manifest, "not trusted here"),
            ([Delete(KEYS.manifest)], KEYS.manifest, "is missing"),
            ([Delete(KEY)], KEY, "is missing"),
        ):
            await store.commit(writes)
            await names(it, key, problem)
            assert await verdicts(it) == USUAL
            await store.commit([Put(KEY, held), Put(KEYS.manifest, manifest)])
            await eventually(lambda: not it.agent.status()["problems"], 5, it.agent.tail())
        assert {event["key"] for event in it.agent.events("record_unusable")} == {KEY, KEYS.manifest}
        await says(it, web="deny", orders="deny")
        assert await verdicts(it) == {"web": 403, "orders": 403}


async def test_attack_37_a_host_that_knows_nothing_is_not_shown_what_the_store_admin_likes(tmp_path, monkeypatch):
    async with signed_shop(tmp_path, monkeypatch) as it:
        held = await raw(it, KEY)
        await says(it, web="allow", orders="allow")
        once_right = await raw(it, KEY)
        await says(it, web="allow", orders="deny")
        right = await raw(it, KEY)
        for value, problem in (
            (encode(opened(held)), "does not fit"),
            (once_right, "the signed index names revision"),
            (None, "is hidden"),
        ):
            await it.mesh.store.commit([Put(KEY, value) if value else Delete(KEY)])
            await it.agent.kill()
            (it.agent.directory / "data" / "snapshot.json").unlink(missing_ok=True)
            await it.agent.start()
            await names(it, KEY, problem)
            await becomes(it, {"web": 403, "orders": 403})
        await it.mesh.store.commit([Put(KEY, right)])
        await eventually(lambda: not it.agent.status()["problems"], 5, it.agent.tail())
        await becomes(it, USUAL)
