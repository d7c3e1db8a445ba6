"""Attacks by way of the store (attack tests 23, 27 to 30) on a live mesh, beside those of test_attacks_policy.py."""

from __future__ import annotations

import asyncio
import itertools
import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from meshagent.ca.builtin import open_builtin
from meshagent.ca.keys import new_key_and_csr
from meshagent.errors import CertificateRefused
from meshagent.model.kinds import KINDS
from meshagent.model.mesh import Mesh
from meshagent.model.world import Stated
from meshagent.policy.explain import explain
from meshagent.policy.precedence import guard
from meshagent.store.base import Delete, Put
from tests.system.apps import HttpApp, get
from tests.system.forged import DOMAIN
from tests.system.live import KEYS, eventually, free_port, live_mesh

KEY = KEYS.document("intention", "payments")


@asynccontextmanager
async def shop():
    """payments and ledger (http); web, orders and batch call both."""
    async with live_mesh() as mesh:
        agent = await mesh.agent()
        local = {(s, u): free_port() for s in ("web", "orders", "batch") for u in ("payments", "ledger")}
        port = free_port()
        async with HttpApp(port, "app") as app:
            for name in ("payments", "ledger"):
                await agent.up(name=name, port=port, protocol="http")
            for source in ("web", "orders", "batch"):
                upstreams = [{"service": up, "local_port": local[source, up]} for up in ("payments", "ledger")]
                await agent.up(name=source, port=free_port(), protocol="http", upstreams=upstreams)
            await mesh.intend("ledger", web="allow")
            await mesh.applied(await mesh.intend("payments", web="allow", orders="deny"))
            shop = SimpleNamespace(mesh=mesh, agent=agent, local=local, app=app)
            assert await verdicts(shop) == USUAL
            yield shop


USUAL = {"web": 200, "orders": 403, "batch": 403}


async def verdicts(shop, upstream="payments"):
    """What each source is answered by the upstream."""
    return {source: (await get(port)).status for (source, to), port in shop.local.items() if to == upstream}


async def put(shop, key, value, problem=""):
    """Write a value past all checks, and wait until the agent has told of it, when it should."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    await shop.mesh.store.commit([Put(key, data)])
    if problem:
        await eventually(lambda: problem in shop.agent.status()["problems"].get(key, ""), 5, shop.agent.tail())
    await asyncio.sleep(0.05 if problem else 0.3)


async def restart_without_cache(shop):
    """An agent that knows nothing but the store."""
    await shop.agent.kill()
    (shop.agent.directory / "data" / "snapshot.json").unlink()
    await shop.agent.start()
    await eventually(lambda: shop.agent.status().get("applied_revision", 0) > 0, 10, shop.agent.tail())


async def test_attack_23_a_default_of_allow_does_not_become_deny_nor_a_deny_an_allow():
    async with shop() as it:
        await it.mesh.applied(await it.mesh.apply({"kind": "mesh", "name": "mesh", "default_action": "allow"}))
        opened = {"web": 200, "orders": 403, "batch": 200}
        assert await verdicts(it) == opened
        keys = [*(await it.mesh.store.read(KEYS.config)).entries]
        for start in range(0, len(keys), it.mesh.store.max_operations):
            await it.mesh.store.commit([Delete(key) for key in keys[start : start + it.mesh.store.max_operations]])
        await eventually(lambda: KEYS.manifest in it.agent.status()["problems"], 5)
        assert await verdicts(it) == opened


async def test_attack_23_a_manifest_that_goes_back_or_is_damaged_is_not_believed():
    async with shop() as it:
        before = (await it.mesh.store.read(KEY, KEYS.manifest)).entries
        opened = {"name": "payments", "kind": "intention", "sources": [{"name": "*", "action": "allow"}]}
        record = {"v": 1, "revision": 1, "document": opened}
        for manifest in ({"v": 1, "revision": 1}, {"v": 2, "revision": 99}, {"revision": 99}, b"", b"\xff", [1]):
            data = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
            await it.mesh.store.commit([Put(KEYS.manifest, data), Put(KEY, json.dumps(record).encode())])
            await eventually(lambda: KEYS.manifest in it.agent.status()["problems"], 5)
            assert await verdicts(it) == USUAL, manifest
        await it.mesh.store.commit([Put(key, entry.value) for key, entry in before.items()])
        await eventually(lambda: not it.agent.status()["problems"], 5)
        assert await verdicts(it) == USUAL


SOURCES = ("web", "orders", "batch")


async def test_attack_27_precedence_of_wildcards_is_that_of_the_reference_in_the_real_proxy():
    """Every choice of exact/exact, exact/*, */exact and */* (allow, deny, absent), with each default."""
    async with shop() as it:
        for number, case in enumerate(itertools.product(("allow", "deny", None), repeat=4)):
            default = "allow" if number % 2 else "deny"
            exact, any_source, any_destination, everything = case
            documents = [
                {"kind": "mesh", "name": "mesh", "default_action": default},
                {"kind": "intention", "name": "payments", "sources": rows(web=exact, anyone=any_source)},
                {"kind": "intention", "name": "*", "sources": rows(web=any_destination, anyone=everything)},
            ]
            await it.mesh.applied(await it.mesh.apply(*documents))
            named = next((each for each in (exact, any_source, any_destination, everything) if each), default)
            others = next((each for each in (any_source, everything) if each), default)
            wanted = {"web": code(named), "orders": code(others), "batch": code(others)}
            assert await verdicts(it) == wanted, (case, default)
            assert reference(documents) == wanted, (case, default)


def rows(**actions):
    named = {"anyone": "*"}
    return [{"name": named.get(name, name), "action": action} for name, action in actions.items() if action]


def code(action):
    return 200 if action == "allow" else 403


def reference(documents):
    """What `explain` says."""
    read = [KINDS[each["kind"]].model_validate(each) for each in documents]
    mesh = next(each for each in read if isinstance(each, Mesh))
    intentions = {each.name: Stated(each) for each in read if not isinstance(each, Mesh)}
    rules = guard("payments", "http", mesh, intentions, datetime.now(UTC))
    return {source: 200 if explain(rules, source).allowed else 403 for source in SOURCES}


ALLOW_ALL = {"kind": "intention", "name": "payments", "sources": [{"name": "*", "action": "allow"}]}


def record(document, **more):
    return {"v": 1, "revision": 1, "document": document} | more


def source(**fields):
    return record(ALLOW_ALL | {"sources": [{"name": "*", "action": "allow"} | fields]})


MALFORMED = {
    "not JSON": b"{",
    "empty": b"",
    "not UTF-8": b"\xff\xfe",
    "BOM": b"\xef\xbb\xbf" + json.dumps(record(ALLOW_ALL)).encode(),
    "nested deeply": b"[" * 100_000,
    "a list": [],
    "null": None,
    "NaN": b'{"v":1,"revision":NaN,"document":null}',
    "key twice": b'{"v":1,"v":1,"revision":1,"document":null}',
    "no document": {"v": 1, "revision": 1},
    "document a list": record([ALLOW_ALL]),
    "another name": record(ALLOW_ALL | {"name": "ledger"}),
    "another kind": record({"kind": "service", "name": "payments"}),
    "wildcard name": record(ALLOW_ALL | {"name": "*"}),
    "sources an object": record(ALLOW_ALL | {"sources": {"*": "allow"}}),
    "source twice": record(ALLOW_ALL | {"sources": [{"name": "*", "action": "allow"}] * 2}),
    "action of another case": source(action="ALLOW"),
    "action a list": source(action=["allow"]),
    "action and permissions": source(permissions=[{"action": "allow", "http": {"path_prefix": "/"}}]),
    "neither": source(action=None),
    "empty condition": source(action=None, permissions=[{"action": "allow", "http": {}}]),
    "bad name": record(ALLOW_ALL | {"sources": [{"name": "We b", "action": "allow"}]}),
    # attack test 29
    "newer version": record(ALLOW_ALL, v=2),
    "version as text": record(ALLOW_ALL, v="1"),
    "version true": record(ALLOW_ALL, v=1.5),
    "no version": {"revision": 1, "document": ALLOW_ALL},
    "unknown field of the record": record(ALLOW_ALL, signed_by="x"),
    "unknown field of the document": record(ALLOW_ALL | {"except": ["orders"]}),
    "unknown field of a source": source(unless="night"),
    "unknown condition": source(
        action=None, permissions=[{"action": "allow", "http": {"hosts": ["a"], "methods": ["GET"]}}]
    ),
    "shadow an object": source(shadow={"deny": True}),
}


async def test_attack_28_29_an_unreadable_intention_keeps_the_last_good_one_and_without_one_denies():
    """Each stands for `allow everybody`, were it read halfway. The other destination keeps its own rules all the while."""
    async with shop() as it:
        before = (await it.mesh.store.read(KEY)).entries[KEY].value
        for kind, value in MALFORMED.items():
            await put(it, KEY, value, "its last good version stays in force")
            assert await verdicts(it) == USUAL, kind
            assert await verdicts(it, "ledger") == {"web": 200, "orders": 403, "batch": 403}, kind
            await it.mesh.store.commit([Put(KEY, before)])
            await eventually(lambda: KEY not in it.agent.status()["problems"], 5, kind)
        for kind in ("not JSON", "unknown field of a source"):
            await put(it, KEY, MALFORMED[kind])
            await restart_without_cache(it)
            await eventually(lambda: "is denied" in it.agent.status()["problems"].get(KEY, ""), 5, it.agent.tail())
            assert await verdicts(it) == {"web": 403, "orders": 403, "batch": 403}, kind
            assert await verdicts(it, "ledger") == {"web": 200, "orders": 403, "batch": 403}, kind


async def test_attack_28_a_malformed_deny_never_turns_into_allow():
    """With an open default and a wide allow around it, an unreadable deny must not vanish."""
    async with shop() as it:
        await it.mesh.apply({"kind": "mesh", "name": "mesh", "default_action": "allow"})
        await it.mesh.applied(await it.mesh.intend("*", anyone="allow"))
        assert (await verdicts(it))["orders"] == 403
        deny = {
            "v": 1,
            "revision": 1,
            "document": {"kind": "intention", "name": "payments", "sources": [{"name": "orders", "action": "denny"}]},
        }
        await put(it, KEY, deny, "its last good version stays in force")
        assert (await verdicts(it))["orders"] == 403
        await restart_without_cache(it)
        assert (await verdicts(it))["orders"] == 403
        await put(it, KEYS.document("intention", "*"), b"{")
        assert (await verdicts(it))["orders"] == 403
        await it.mesh.store.commit([Delete(KEY)])  # gone without having been deleted
        await asyncio.sleep(0.3)
        assert (await verdicts(it))["orders"] == 403


NAMES = ["../x", "..", ".", "a/b", "/a", "*a", "a*", "", " ", "a b", "a\nb", "a\n", "\na", "a\x00", "a\x00b", "a;b"]
NAMES += ['a"b', "a'b", "`id`", "$(id)", "a" * 64, "a" * 300, "ü", "\u0430", "\uff11", "A", "Web", "a.", "a.b", "-a"]
NAMES += ["a-", "a_b", "a%2fb", "a\u2028b", "a\x1b[31m"]


async def test_attack_30_names_that_are_none_are_refused_at_load_at_the_api_at_watch_and_at_signing():
    async with shop() as it:
        authority = open_builtin(it.mesh.directory / "ca", DOMAIN, clock=lambda: datetime.now(UTC))
        _, csr = new_key_and_csr(f"spiffe://{DOMAIN}/svc/web")
        directory = it.agent.directory / "services.d"
        directory.mkdir()
        listed = it.agent.status()["services"]
        sibling = it.agent.directory.parent
        before = sorted(sibling.rglob("*.pem"))
        for number, name in enumerate(NAMES):
            answer = await asyncio.to_thread(it.agent.call, "PUT", "/v1/services", {"name": name, "port": 1234})
            assert answer["http"] == 422, (name, answer)
            upstreams = [{"service": name, "local_port": 1235}]
            answer = await asyncio.to_thread(
                it.agent.call, "PUT", "/v1/services", {"name": "fine", "port": 1234, "upstreams": upstreams}
            )
            assert answer["http"] == 422, (name, answer)
            (directory / f"{number}.json").write_text(json.dumps({"name": name, "port": 1234}))
            with pytest.raises(CertificateRefused):
                await authority.sign(csr, f"spiffe://{DOMAIN}/svc/{name}", timedelta(minutes=1))
            for document in ({"kind": "intention", "name": name}, {"kind": "service", "name": name}):
                with pytest.raises(ValueError, match="must be|at least|at most"):
                    KINDS[document["kind"]].model_validate(document)
            rule = {"v": 1, "revision": 1, "document": ALLOW_ALL | {"sources": [{"name": name, "action": "allow"}]}}
            await it.mesh.store.commit([Put(KEY, json.dumps(rule).encode())])
        it.agent.process.send_signal(1)
        await eventually(lambda: len(it.agent.events("definition_unusable")) >= len(NAMES), 5, it.agent.tail())
        await eventually(lambda: KEY in it.agent.status()["problems"], 5)
        assert it.agent.status()["services"] == listed and sorted(sibling.rglob("*.pem")) == before
        assert await verdicts(it) == USUAL
        assert all(isinstance(json.loads(line), dict) for line in it.agent.log.read_bytes().splitlines())


async def test_attack_30_instances_with_such_names_or_addresses_are_not_called():
    async with shop() as it:
        good = {"v": 1, "service": "payments", "host": "evil", "id": "evil", "address": "127.0.0.1", "port": 4444}
        bad = [
            {"service": "../web"},
            {"service": "ledger"},
            {"host": "a\nb"},
            {"id": "*"},
            {"port": 0},
            {"port": 70000},
        ]
        bad += [{"address": each} for each in ("localhost", "/run/x.sock", "0.0.0.0", "224.0.0.1", "1.2.3", "")]
        bad += [{"v": 2}, {"protocol": "ftp"}, {"health": "fine"}, {"weight": 9}]
        key = KEYS.instance("payments", "evil", "evil")
        for change in bad:
            await put(it, key, good | change, "this instance is not called")
        for _ in range(6):
            assert await verdicts(it) == USUAL
