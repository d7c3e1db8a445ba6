"""Certificates of gateways: whole pairs only, read again when they are replaced, the last good one kept."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from meshagent.agent.key_pairs import KeyPairs
from meshagent.model.certificate import CertificateFiles

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def put(directory, name, curve=None, key=None, ends=NOW + timedelta(days=1)):
    """A self-signed pair on disk; returns its files."""
    key = key or ec.generate_private_key(curve or ec.SECP256R1())
    called = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = x509.CertificateBuilder(called, called, key.public_key(), x509.random_serial_number(), NOW, ends)
    pem = made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    form = serialization.PrivateFormat.PKCS8
    files = directory / f"{name}.pem", directory / f"{name}.key"
    for path, content in zip(
        files, (pem, key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())), strict=True
    ):
        path.unlink(missing_ok=True)
        path.touch(0o600)
        path.write_bytes(content)
    return CertificateFiles(cert_file=str(files[0]), key_file=str(files[1])), pem


@pytest.fixture
def told():
    return []


@pytest.fixture
def pairs(told):
    return KeyPairs(lambda: NOW, told.append)


async def test_a_pair_is_read_at_once_and_told_once(pairs, told, tmp_path):
    files, pem = put(tmp_path, "shop")
    pairs.want([files])
    assert len(told) == 1
    await pairs.look()
    assert [each[files.cert_file].chain_pem for each in told] == [pem]
    assert pairs.problems == {}


async def test_a_replaced_pair_is_told_and_half_of_one_leaves_the_last_good_pair(pairs, told, tmp_path):
    files, first = put(tmp_path, "shop")
    pairs.want([files])
    await pairs.look()
    other, second = put(tmp_path, "other")
    Path(other.cert_file).replace(files.cert_file)
    await pairs.look()
    assert pairs.pairs[files.cert_file].chain_pem == first
    assert "is not for the key" in pairs.problems[files.cert_file] and "stays in use" in pairs.problems[files.cert_file]
    Path(other.key_file).replace(files.key_file)
    await pairs.look()
    assert pairs.pairs[files.cert_file].chain_pem == second and len(told) == 2
    assert pairs.problems == {}


async def test_what_is_not_there_is_told_and_taken_up_once_it_is(pairs, told, tmp_path):
    files = CertificateFiles(cert_file=str(tmp_path / "shop.pem"), key_file=str(tmp_path / "shop.key"))
    pairs.want([files])
    await pairs.look()
    assert told == [] and "not shown to anybody" in pairs.problems[files.cert_file]
    put(tmp_path, "shop")
    await pairs.look()
    assert files.cert_file in told[-1] and pairs.problems == {}


async def test_a_key_that_others_can_read_is_refused(pairs, told, tmp_path):
    files, _ = put(tmp_path, "shop")
    Path(files.key_file).chmod(0o644)
    pairs.want([files])
    await pairs.look()
    assert told == [] and "can be read by other users" in pairs.problems[files.cert_file]


async def test_a_fifo_is_refused_and_nobody_waits_for_it(pairs, told, tmp_path):
    os.mkfifo(tmp_path / "shop.pem")
    files = CertificateFiles(cert_file=str(tmp_path / "shop.pem"), key_file=str(tmp_path / "shop.key"))
    pairs.want([files])
    await pairs.look()
    assert told == [] and "not a regular file" in pairs.problems[files.cert_file]


async def test_a_key_with_which_every_handshake_would_fail_is_refused(pairs, told, tmp_path):
    files, _ = put(tmp_path, "shop", curve=ec.SECP521R1())
    pairs.want([files])
    await pairs.look()
    assert told == [] and "secp521r1" in pairs.problems[files.cert_file]


async def test_an_ended_certificate_is_shown_and_told_of(pairs, told, tmp_path):
    files, _ = put(tmp_path, "shop", ends=NOW + timedelta(seconds=0))
    pairs.want([files])
    await pairs.look()
    assert len(told) == 1 and "clients refuse it" in pairs.problems[files.cert_file]


async def test_what_is_not_wanted_any_more_is_forgotten(pairs, told, tmp_path):
    first, _ = put(tmp_path, "shop")
    second, _ = put(tmp_path, "other")
    pairs.want([first, second])
    await pairs.look()
    pairs.want([second])
    assert set(pairs.pairs) == {second.cert_file}
