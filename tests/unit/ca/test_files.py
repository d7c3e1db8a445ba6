"""Pairs that somebody else puts on disk: whole or not at all, private, and taken up when they change."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from meshagent.ca.base import Announcing, KeyMaker
from meshagent.ca.files import FilesAuthority, open_authority
from meshagent.errors import AuthorityUnavailable, CertificateRefused, UsageProblem
from tests.unit.ca.lying_ca import DOMAIN, HOUR, ROOT, WEB, Order, pem_of, private_pem

Pair = tuple[bytes, bytes]


def pair() -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    return private_pem(key), pem_of(ROOT.issue(Order(key=key)))


def write(path: Path, content: bytes) -> None:
    path.touch(0o600)
    path.write_bytes(content)


def put(directory: Path, made: Pair) -> Pair:
    write(directory / "web.key", made[0])
    write(directory / "web.pem", made[1])
    return made


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "roots.pem").write_text(ROOT.pem)
    return tmp_path


def opened(directory: Path, **settings: object) -> FilesAuthority:
    given = {"directory": str(directory), "poll": "10ms", **settings}
    return open_authority(given, trust_domain=DOMAIN, data_dir=directory, clock=lambda: datetime.now(UTC))


async def given_by(files: FilesAuthority) -> Pair:
    issued = await files.issue(WEB, HOUR)
    return issued.key_pem, issued.chain_pem


async def test_it_hands_out_what_is_there_and_says_when_there_is_another(directory: Path) -> None:
    files = opened(directory)
    assert isinstance(files, KeyMaker) and isinstance(files, Announcing)
    first = put(directory, pair())
    assert await given_by(files) == first
    told = asyncio.create_task(files.changed())
    await asyncio.sleep(0.05)
    assert not told.done()
    second = put(directory, pair())
    async with asyncio.timeout(5):
        assert await told == {WEB}
    assert await given_by(files) == second


@pytest.mark.parametrize("first", ["web.key", "web.pem"])
async def test_half_a_pair_is_not_taken_and_the_old_one_stays_until_the_other_half_is_there(
    directory: Path, first: str
) -> None:
    files = opened(directory)
    old, new = put(directory, pair()), pair()
    assert await given_by(files) == old
    halves = {"web.key": new[0], "web.pem": new[1]}
    write(directory / first, halves.pop(first))
    assert await given_by(files) == old
    assert "is not for the key" in (await files.check()).problems[0]
    ((other, content),) = halves.items()
    write(directory / other, content)
    async with asyncio.timeout(5):
        await files.changed()
    assert await given_by(files) == new
    assert (await files.check()).ok


async def test_a_link_that_swaps_both_files_at_once_is_followed(directory: Path) -> None:
    pairs = [pair(), pair()]
    for number, made in enumerate(pairs):
        (directory / f"v{number}").mkdir()
        put(directory / f"v{number}", made)
    (directory / "data").symlink_to("v0")
    files = opened(directory, cert="data/{service}.pem", key="data/{service}.key")
    assert await given_by(files) == pairs[0]
    (directory / "new").symlink_to("v1")
    (directory / "new").rename(directory / "data")
    async with asyncio.timeout(5):
        await files.changed()
    assert await given_by(files) == pairs[1]


async def test_before_any_file_is_there_it_is_a_failure_that_passes(directory: Path) -> None:
    files = opened(directory)
    with pytest.raises(AuthorityUnavailable, match=r"web\.pem cannot be read"):
        await files.issue(WEB, HOUR)
    told = asyncio.create_task(files.changed())
    made = put(directory, pair())
    async with asyncio.timeout(5):
        await told
    assert await given_by(files) == made


async def test_a_key_that_others_can_read_is_refused_and_so_is_a_chain_that_they_can_write(directory: Path) -> None:
    made = put(directory, pair())
    (directory / "web.key").chmod(0o644)
    with pytest.raises(AuthorityUnavailable, match="can be read by other users"):
        await opened(directory).issue(WEB, HOUR)
    (directory / "web.key").chmod(0o600)
    (directory / "web.pem").chmod(0o666)
    with pytest.raises(AuthorityUnavailable, match="can be written by other users"):
        await opened(directory).issue(WEB, HOUR)
    (directory / "web.pem").chmod(0o644)
    assert await given_by(opened(directory)) == made


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("web.key", b"garbage"),
        ("web.key", b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n"),
        ("web.pem", b"garbage"),
        ("web.pem", b""),
    ],
)
async def test_what_is_no_key_or_chain_is_refused_without_a_word_of_the_key(
    directory: Path, name: str, content: bytes
) -> None:
    put(directory, pair())
    write(directory / name, content)
    with pytest.raises(CertificateRefused, match=name) as refusal:
        await opened(directory).issue(WEB, HOUR)
    assert "garbage" not in refusal.value.message


async def test_a_key_file_that_holds_more_gives_the_key_alone(directory: Path) -> None:
    key, chain = put(directory, pair())
    write(directory / "web.key", b"a word before\n" + key + chain)
    assert (await given_by(opened(directory)))[0] == key


async def test_a_loop_of_links_is_a_failure_like_any_other(directory: Path) -> None:
    (directory / "web.pem").symlink_to("web.key")
    (directory / "web.key").symlink_to("web.pem")
    with pytest.raises(AuthorityUnavailable, match="loop"):
        await opened(directory).issue(WEB, HOUR)


async def test_roots_that_anybody_may_write_are_not_believed(directory: Path) -> None:
    (directory / "roots.pem").chmod(0o666)
    with pytest.raises(AuthorityUnavailable, match="can be written by other users"):
        await opened(directory).bundle()
    assert not (await opened(directory).check()).ok


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"directory": "pairs"},
        {"directory": "/x", "cert": "web.pem"},
        {"directory": "/x", "roots": "{service}.roots"},
        {"cert": "/x/{service}.pem", "key": "/x/{service}.key"},
        {"directory": "/x", "poll": "1h"},
    ],
)
def test_settings_that_cannot_be_used_are_refused_at_the_start(tmp_path: Path, settings: dict[str, object]) -> None:
    with pytest.raises(UsageProblem):
        open_authority(settings, trust_domain=DOMAIN, data_dir=tmp_path, clock=lambda: datetime.now(UTC))
