"""The built-in CA: made once, shared by agents, every verdict on record, a damaged directory never believed."""

from __future__ import annotations

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from meshagent.ca.base import Authority
from meshagent.ca.builtin import BuiltinAuthority, open_authority, open_builtin
from meshagent.ca.issuance import ROOT_LIFE
from meshagent.ca.x509 import accept, key_der
from meshagent.errors import AuthorityUnavailable, CertificateRefused, UnsafeFile, UsageProblem
from meshagent.private import locked, private_dir, write_private
from tests.unit.ca.lying_ca import (
    CSR_PEM,
    DOMAIN,
    HOUR,
    KEY_PEM,
    MINUTE,
    NOW,
    OUR_KEY,
    SECOND,
    WEB,
    private_pem,
    root_ca,
)


class FakeClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ca"


@pytest.fixture
def ca(path: Path, clock: FakeClock) -> BuiltinAuthority:
    return open_builtin(path, DOMAIN, clock=clock)


def audit(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (path / "audit.jsonl").read_bytes().splitlines()]


async def test_what_it_signs_is_accepted_for_the_service_asked_and_the_key_of_the_request(ca: Authority) -> None:
    chain = await ca.sign(CSR_PEM, WEB, HOUR)
    svid = accept(chain, KEY_PEM, WEB, await ca.bundle(), DOMAIN, NOW, HOUR)
    assert (svid.not_before, svid.expires_at) == (NOW - MINUTE, NOW + HOUR)


async def test_a_year_is_cut_to_the_cap(path: Path, clock: FakeClock) -> None:
    for cap in (HOUR, 24 * HOUR):
        ca = open_builtin(path, DOMAIN, clock=clock, max_ttl=cap)
        leaf = x509.load_pem_x509_certificate(await ca.sign(CSR_PEM, WEB, timedelta(days=365)))
        assert leaf.not_valid_after_utc == NOW + cap


async def test_nothing_outlives_the_root(ca: BuiltinAuthority, clock: FakeClock) -> None:
    clock.now = NOW + ROOT_LIFE - 10 * MINUTE
    leaf = x509.load_pem_x509_certificate(await ca.sign(CSR_PEM, WEB, HOUR))
    assert leaf.not_valid_after_utc == NOW + ROOT_LIFE
    clock.now = NOW + ROOT_LIFE - 30 * SECOND
    with pytest.raises(AuthorityUnavailable, match="own certificate ends"):
        await ca.sign(CSR_PEM, WEB, HOUR)


# === one CA for several agents


def test_its_files_are_closed_to_everybody_else(ca: Authority, path: Path) -> None:
    modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in path.iterdir()}
    assert modes == {"root.key": 0o600, "root.pem": 0o600, "lock": 0o600}
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


async def test_agents_that_share_the_directory_share_the_root_even_when_they_start_at_once(
    path: Path, clock: FakeClock
) -> None:
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(lambda _: open_builtin(path, DOMAIN, clock=clock), range(8)))
    first, *others = [await ca.bundle() for ca in opened]
    assert all(other == first for other in others)
    for ca in opened:
        assert accept(await ca.sign(CSR_PEM, WEB, HOUR), KEY_PEM, WEB, first, DOMAIN, NOW, HOUR).spiffe_id == WEB
    assert len(audit(path)) == 8


async def test_it_is_the_same_ca_after_a_restart(ca: BuiltinAuthority, path: Path, clock: FakeClock) -> None:
    assert await open_builtin(path, DOMAIN, clock=clock).bundle() == await ca.bundle()


async def test_opening_one_that_exists_does_not_wait_for_the_lock(
    ca: BuiltinAuthority, path: Path, clock: FakeClock
) -> None:
    with locked(path / "lock"):
        assert await open_builtin(path, DOMAIN, clock=clock).bundle() == await ca.bundle()


async def test_a_crash_between_the_two_files_is_made_good_with_the_same_key(path: Path, clock: FakeClock) -> None:
    open_builtin(path, DOMAIN, clock=clock)
    key_before = (path / "root.key").read_bytes()
    (path / "root.pem").unlink()
    ca = open_builtin(path, DOMAIN, clock=clock)
    assert (path / "root.key").read_bytes() == key_before
    assert (
        accept(await ca.sign(CSR_PEM, WEB, HOUR), KEY_PEM, WEB, await ca.bundle(), DOMAIN, NOW, HOUR).spiffe_id == WEB
    )


# === damage


def test_a_lost_key_is_never_replaced_silently(ca: Authority, path: Path, clock: FakeClock) -> None:
    (path / "root.key").unlink()
    with pytest.raises(AuthorityUnavailable, match="root.key is missing") as damage:
        open_builtin(path, DOMAIN, clock=clock)
    assert "backup" in damage.value.next_step
    assert not (path / "root.key").exists()


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PRIVATE KEY-----\nQUJD\n-----END PRIVATE KEY-----\n"])
def test_a_broken_key_is_named_without_a_word_of_it(
    ca: Authority, path: Path, clock: FakeClock, content: bytes
) -> None:
    write_private(path / "root.key", content)
    with pytest.raises(AuthorityUnavailable, match="root.key cannot be read") as damage:
        open_builtin(path, DOMAIN, clock=clock)
    assert "QUJD" not in str(damage.value)


def test_an_encrypted_key_and_a_broken_root_are_named(ca: Authority, path: Path, clock: FakeClock) -> None:
    locked_key = root_ca().key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )
    write_private(path / "root.key", locked_key)
    with pytest.raises(AuthorityUnavailable, match="root.key cannot be read"):
        open_builtin(path, DOMAIN, clock=clock)
    write_private(path / "root.pem", b"garbage")
    with pytest.raises(AuthorityUnavailable, match="root.pem cannot be read"):
        open_builtin(path, DOMAIN, clock=clock)


def test_a_key_of_another_root_is_refused(ca: Authority, path: Path, clock: FakeClock) -> None:
    write_private(path / "root.key", private_pem(root_ca().key))
    with pytest.raises(AuthorityUnavailable, match="root.key does not belong to root.pem"):
        open_builtin(path, DOMAIN, clock=clock)


def test_a_key_that_others_can_read_is_not_used(ca: Authority, path: Path, clock: FakeClock) -> None:
    (path / "root.key").chmod(0o644)
    with pytest.raises(UnsafeFile, match="root.key can be read by other users"):
        open_builtin(path, DOMAIN, clock=clock)


@pytest.mark.parametrize("name", ["root.key", "root.pem", "lock"])
def test_a_link_planted_where_the_ca_will_be_made_is_refused(path: Path, clock: FakeClock, name: str) -> None:
    private_dir(path)
    victim = path.parent / "victim"
    victim.write_bytes(b"untouched")
    (path / name).symlink_to(victim)
    with pytest.raises(UnsafeFile, match=name):
        open_builtin(path, DOMAIN, clock=clock)
    assert victim.read_bytes() == b"untouched"


def test_the_ca_of_another_trust_domain_is_not_taken_for_ours(ca: Authority, path: Path, clock: FakeClock) -> None:
    with pytest.raises(UsageProblem, match=r"is for the trust domain mesh\.internal, not other\.internal"):
        open_builtin(path, "other.internal", clock=clock)


# === the record of its verdicts


async def test_every_signature_leaves_a_line(ca: BuiltinAuthority, path: Path) -> None:
    leaf = x509.load_pem_x509_certificate(await ca.sign(CSR_PEM, WEB, HOUR))
    assert audit(path) == [
        {
            "when": "2026-11-21T12:00:00+00:00",
            "spiffe_id": WEB,
            "verdict": "signed",
            "serial": f"{leaf.serial_number:x}",
            "key_sha256": sha256(key_der(OUR_KEY)).hexdigest(),
            "ttl_seconds": 3600.0,
            "reason": "",
        }
    ]
    assert stat.S_IMODE((path / "audit.jsonl").stat().st_mode) == 0o600


async def test_every_refusal_leaves_a_line_and_what_was_asked_cannot_forge_another(
    ca: BuiltinAuthority, path: Path
) -> None:
    evil = 'spiffe://mesh.internal/svc/x\n{"verdict": "signed"}\x1b[2J' + "y" * 1000
    with pytest.raises(CertificateRefused):
        await ca.sign(CSR_PEM, evil, HOUR)
    with pytest.raises(CertificateRefused):
        await ca.sign(b"garbage", WEB, HOUR)
    first, second = audit(path)
    assert (first["verdict"], first["spiffe_id"], first["serial"]) == ("refused", evil[:300], "")
    assert (second["verdict"], second["key_sha256"]) == ("refused", "")
    assert "cannot be read" in str(second["reason"])


async def test_there_is_no_signature_without_its_line(ca: BuiltinAuthority, path: Path) -> None:
    (path / "audit.jsonl").symlink_to(path / "elsewhere")
    with pytest.raises(AuthorityUnavailable, match="nothing is signed while the audit log cannot be written"):
        await ca.sign(CSR_PEM, WEB, HOUR)
    health = await ca.check()
    assert not health.ok
    assert "audit.jsonl is a symbolic link" in health.problems[0]


async def test_it_is_healthy_until_the_last_month_of_its_root(ca: BuiltinAuthority, clock: FakeClock) -> None:
    assert (await ca.check()).ok
    clock.now = NOW + ROOT_LIFE - timedelta(days=30)
    health = await ca.check()
    assert not health.ok
    assert "the root ends at" in health.problems[0]


# === settings


async def test_the_directory_is_the_one_set_or_ca_in_the_data_directory(tmp_path: Path, clock: FakeClock) -> None:
    one = open_authority({}, trust_domain=DOMAIN, data_dir=tmp_path, clock=clock)
    same = open_authority({"path": str(tmp_path / "ca")}, trust_domain=DOMAIN, data_dir=tmp_path / "x", clock=clock)
    assert await one.bundle() == await same.bundle()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pth": "/x"}, "does not know pth"),
        ({"path": 7}, "ca.path must be"),
        ({"max_ttl": "soon"}, "ca.max_ttl must be a duration"),
        ({"max_ttl": "25h"}, "ca.max_ttl is 25h"),
        ({"max_ttl": "0s"}, "ca.max_ttl is 0ms"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(
    tmp_path: Path, clock: FakeClock, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageProblem, match=message) as problem:
        open_authority(settings, trust_domain=DOMAIN, data_dir=tmp_path, clock=clock)
    assert problem.value.next_step
    assert not (tmp_path / "ca").exists()
