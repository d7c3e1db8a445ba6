"""A rotation is carried on by whoever calls next, from any point at which somebody before was interrupted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from meshagent.ca.issuance import new_intermediate, to_pem
from meshagent.ca.root_files import create_root, digest_of, load_root, make_active, prepare_next, spare_digests
from meshagent.ca.rotation import root_digests
from meshagent.ca.x509 import key_der
from meshagent.cli import rotating
from meshagent.cli.intermediates import sign_again
from meshagent.cli.rotating import Rotating
from meshagent.errors import RotationRefused
from meshagent.model.identity import TrustBundle
from meshagent.model.mesh import Mesh
from meshagent.state.catalog import put_report
from meshagent.state.changes import Author
from meshagent.state.enrolment import SignerRecord
from meshagent.state.foundation import lay_foundation
from meshagent.state.keys import Keys
from meshagent.state.records import ReportRecord, decode, encode
from meshagent.state.roots import Vault, read_roots
from meshagent.state.rotation import Go, Wait
from meshagent.state.signing import UNSIGNED
from meshagent.store.base import Put
from meshagent.store.sqlite import open_sqlite

DOMAIN = "mesh.internal"
KEYS = Keys()
MINUTE = timedelta(minutes=1)


class Stage:
    """A store, the root's directory, a host that reports as it is told, and a clock."""

    def __init__(self, store, root):
        self.store, self.root = store, root
        self.now = datetime.now(UTC)
        self.vault = Vault(store, KEYS, UNSIGNED, lambda why: Author("ann", self.now, why))

    def caller(self, root=...):
        """Somebody who calls `ca rotate`, and knows nothing of those before."""
        return Rotating(self.vault, self.root if root is ... else root, lambda: self.now, "ann")

    async def bundle(self):
        return (await read_roots(self.store, KEYS, UNSIGNED.trust)).bundle.bundle()

    async def digests(self):
        return root_digests(await self.bundle(), DOMAIN)

    def active(self):
        return digest_of(load_root(self.root).certificate)

    async def host_follows(self):
        """The host has applied the bundle, and its certificates are of the root that signs."""
        roots = {"web": self.active()}
        held = (await self.bundle()).digest()
        facts = {"revision": 1, "services": ["web"], "agent_version": "1", "at": self.now, "bundle": held}
        report = ReportRecord(host="vm-1", roots=roots, svids={"web": self.now + MINUTE}, **facts)
        lease = await self.store.lease(timedelta(seconds=60))
        await self.store.commit([put_report(KEYS, report, lease.id)])

    async def go(self):
        """The next step, by somebody new. Gives the record."""
        caller = self.caller()
        standing = await caller.look()
        assert isinstance(standing.decision, Go), standing
        return await caller.step(standing.record, standing.decision)

    async def to_its_end(self):
        """Go on until it is over, hosts and time doing what they should."""
        for _ in range(6):
            standing = await self.caller().look()
            if standing.record is None:
                return
            await self.host_follows()
            self.now += timedelta(minutes=5)
            await self.go()
        raise AssertionError(standing)


@pytest.fixture
async def mesh(tmp_path):
    store = await open_sqlite(tmp_path / "mesh.db")
    root = tmp_path / "root"
    root.mkdir(mode=0o700)
    made = create_root(root, DOMAIN, datetime.now(UTC), path_length=1)
    bundle = TrustBundle(((DOMAIN, (to_pem(made.certificate).decode(),)),))
    await lay_foundation(store, KEYS, Mesh(), bundle, Author("ann", datetime.now(UTC)))
    found = Stage(store, root)
    await found.host_follows()
    yield found
    await store.close()


async def test_from_the_first_step_to_the_last(mesh):
    old = mesh.active()
    record = await mesh.caller().replace_root(MINUTE)
    assert await mesh.digests() == {old, record.new[0]} and mesh.active() == old
    waits = (await mesh.caller().look()).decision
    assert waits == Wait({"vm-1": "has not applied the new trust bundle"})
    await mesh.host_follows()
    await mesh.go()
    assert mesh.active() == record.new[0] and (await mesh.bundle()).leaving == (old,)
    assert "vm-1" in (await mesh.caller().look()).decision.hosts
    await mesh.host_follows()
    assert (await mesh.caller().look()).decision.hosts == {}
    mesh.now += timedelta(minutes=2)
    await mesh.go()
    assert await mesh.digests() == {record.new[0]} and old in spare_digests(mesh.root)
    await mesh.go()
    assert not spare_digests(mesh.root) and (await mesh.caller().look()).record is None


class Crash(BaseException):
    pass


async def whole_rotation(mesh):
    await mesh.caller().replace_root(MINUTE)
    await mesh.to_its_end()


@pytest.mark.parametrize("crash_at", ["begin", "activate", "retire", "destroy_spare", "end"])
async def test_interrupted_before_any_write_it_goes_on_to_the_same_end(mesh, monkeypatch, crash_at):
    old = mesh.active()

    def crash(*_):
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(rotating, crash_at, crash)
        with pytest.raises(Crash):
            await whole_rotation(mesh)
    if (await mesh.caller().look()).record is None:
        await mesh.caller().replace_root(MINUTE)
    await mesh.to_its_end()
    new = mesh.active()
    assert new != old and await mesh.digests() == {new} and not spare_digests(mesh.root)
    assert [each.name for each in mesh.root.glob("*.key")] == ["root.key"]


async def test_turned_back_before_the_activation_nothing_of_the_new_root_is_left(mesh):
    old = mesh.active()
    record = await mesh.caller().replace_root(MINUTE)
    await mesh.caller().turn_back(record)
    assert await mesh.digests() == {old}
    await mesh.to_its_end()
    assert mesh.active() == old and not spare_digests(mesh.root)


async def test_turned_back_where_the_new_root_signs_already_and_nobody_wrote_it_down_takes_the_long_way(mesh):
    old = mesh.active()
    record = await mesh.caller().replace_root(MINUTE)
    make_active(mesh.root, record.new[0])  # a crash came here
    after = await mesh.caller().turn_back(record)
    assert after.stage == "activate" and mesh.active() == old
    assert await mesh.digests() == {old, record.new[0]} and (await mesh.bundle()).leaving == (record.new[0],)
    await mesh.to_its_end()
    assert mesh.active() == old and await mesh.digests() == {old} and not spare_digests(mesh.root)


async def test_an_aborted_next_root_never_comes_back(mesh):
    first = await mesh.caller().replace_root(MINUTE)
    await mesh.caller().turn_back(first)
    await mesh.to_its_end()
    second = await mesh.caller().replace_root(MINUTE)
    assert second.new != first.new


async def test_a_retired_root_cannot_be_turned_back_to(mesh):
    record = await mesh.caller().replace_root(MINUTE)
    await mesh.host_follows()
    await mesh.go()
    await mesh.host_follows()
    mesh.now += timedelta(minutes=5)
    record = await mesh.go()
    with pytest.raises(RotationRefused, match="retired already"):
        await mesh.caller().turn_back(record)


async def test_only_the_root_of_this_mesh_is_replaced_and_only_where_it_is(mesh, tmp_path):
    foreign = tmp_path / "foreign"
    foreign.mkdir(mode=0o700)
    create_root(foreign, DOMAIN, mesh.now)
    for directory, words in ((foreign, "not in the mesh's trust bundle"), (None, "does not hold"), (tmp_path, "hold")):
        with pytest.raises(RotationRefused, match=words):
            await mesh.caller(directory).replace_root(MINUTE)
    await mesh.caller().replace_root(MINUTE)
    with pytest.raises(RotationRefused, match="under way"):
        await mesh.caller().replace_root(MINUTE)


async def test_a_life_that_a_host_reports_counts_when_it_is_longer_than_what_was_told(mesh):
    record = await mesh.caller().replace_root(timedelta(seconds=1))
    assert 50 < record.ttl_seconds <= 60


async def test_another_ca_takes_over_every_root_that_is_not_its_own(mesh, tmp_path):
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    roots = TrustBundle(((DOMAIN, (to_pem(create_root(other, DOMAIN, mesh.now).certificate).decode(),)),))
    record = await mesh.caller(None).change_provider(roots, DOMAIN, MINUTE)
    assert record.old == [mesh.active()] and record.kind == "provider"
    await mesh.host_follows()
    caller = mesh.caller(None)
    standing = await caller.look()
    await caller.step(standing.record, standing.decision)
    mesh.root = other
    await mesh.to_its_end()
    assert await mesh.digests() == set(record.new)
    with pytest.raises(RotationRefused, match="no other roots"):
        await mesh.caller().change_provider(roots, DOMAIN, MINUTE)


# --- authorities on other machines


def key():
    return ec.generate_private_key(ec.SECP256R1())


def signer(intermediate="", csr=""):
    return SignerRecord(address="10.0.0.5:8443", intermediate=intermediate, csr=csr, at=datetime.now(UTC))


async def held(store, name):
    return decode(SignerRecord, (await store.read(KEYS.signer(name))).entries[KEYS.signer(name)].value)


async def test_authorities_that_the_old_root_signed_are_signed_again_and_nobody_else_is(mesh, tmp_path):
    foreign = tmp_path / "foreign"
    foreign.mkdir(mode=0o700)
    stranger, ours = create_root(foreign, DOMAIN, mesh.now, path_length=1), load_root(mesh.root)
    keys = {name: key() for name in ("one", "forged")}
    roots = {"one": ours, "forged": stranger}
    made = {name: new_intermediate(keys[name].public_key(), name, DOMAIN, roots[name], mesh.now) for name in keys}
    records = {name: signer(to_pem(each).decode()) for name, each in made.items()} | {"new": signer(csr="CSR")}
    await mesh.store.commit([Put(KEYS.signer(name), encode(record)) for name, record in records.items()])
    await mesh.caller().replace_root(MINUTE)
    await mesh.host_follows()
    await mesh.go()
    assert await held(mesh.store, "forged") == records["forged"] and await held(mesh.store, "new") == records["new"]
    again = await held(mesh.store, "one")
    certificate = x509.load_pem_x509_certificate(again.intermediate.encode())
    certificate.verify_directly_issued_by(load_root(mesh.root).certificate)
    assert key_der(certificate.public_key()) == key_der(keys["one"].public_key())
    assert again.fingerprint == digest_of(certificate) and certificate.subject == made["one"].subject


async def test_signing_again_twice_changes_nothing(mesh):
    old = load_root(mesh.root)
    made = new_intermediate(key().public_key(), "one", DOMAIN, old, mesh.now)
    await mesh.store.commit([Put(KEYS.signer("one"), encode(signer(to_pem(made).decode())))])
    make_active(mesh.root, digest_of(prepare_next(mesh.root, mesh.now)))
    arguments = (mesh.store, KEYS, DOMAIN, load_root(mesh.root), [old.certificate], mesh.now)
    assert await sign_again(*arguments) == ("one",)
    assert await sign_again(*arguments) == ()
