"""Vault's provider without a Vault: its settings, and servers that answer nonsense."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest

from meshagent.ca.vault import VaultAuthority, open_authority
from meshagent.ca.vault_api import quoted
from meshagent.errors import AuthorityUnavailable, CertificateRefused, MeshError, UsageProblem
from tests.unit.ca.lying_ca import CSR_PEM, DOMAIN, HOUR, ROOT, WEB

TOKEN = "s.0123456789"


def opened(directory: Path, **settings: object) -> VaultAuthority:
    token = directory / "token"
    token.touch(0o600)
    token.write_text(TOKEN)
    given = {"address": "https://vault.internal:8200", "role": "mesh", "token_file": str(token), **settings}
    given = {key: value for key, value in given.items() if value is not None}
    return open_authority(given, trust_domain=DOMAIN, data_dir=directory, clock=lambda: datetime.now(UTC))


APPROLE = {"role_id": "r", "secret_id_file": "/s"}
JWT = {"role": "r", "jwt_file": "/j"}


@pytest.mark.parametrize(
    "settings",
    [
        {"address": "vault.internal"},
        {"address": "http://vault.internal:8200"},
        {"address": "https://user:secret@vault.internal:8200"},
        {"address": "https://vault.internal:8200/v1"},
        {"role": None},
        {"role": "mesh/../../sys"},
        {"role": "{name}"},
        {"mount": "../sys"},
        {"token_file": None},
        {"approle": APPROLE},
        {"token_file": None, "approle": APPROLE, "jwt": JWT},
        {"token_file": None, "jwt": {"role": "r"}},
        {"timeout": "0s"},
        {"ca_file": "/no/such/file"},
        {"token": "s.in-the-configuration"},
    ],
)
def test_settings_that_cannot_be_used_are_refused_at_the_start(tmp_path: Path, settings: dict[str, object]) -> None:
    with pytest.raises(UsageProblem):
        opened(tmp_path, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"address": "http://127.0.0.1:8200"},
        {"address": "http://[::1]:8200"},
        {"address": "http://localhost:8200/"},
        {"address": "http://vault.internal:8200", "insecure": True},
        {"role": "svc-{service}", "mount": "pki/mesh", "namespace": "team/a"},
        {"token_file": None, "approle": APPROLE},
        {"token_file": None, "jwt": JWT},
    ],
)
def test_settings_that_make_sense_are_taken(tmp_path: Path, settings: dict[str, object]) -> None:
    assert opened(tmp_path, **settings)


def test_the_words_of_others_are_one_short_line_without_secrets() -> None:
    assert quoted("no\nsuch\x1b[31m token s.abc here", "s.abc", "") == "no such [31m token (secret) here"
    assert len(quoted("x" * 1000)) == 200
    assert "s.abc" not in quoted("x" * 197 + "s.abc", "s.abc")


Answer = Callable[[str], tuple[int, bytes]]


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[str]:
    """A server on loopback, at this address. At the end every connection has been closed."""
    tasks: list[asyncio.Task[None]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(cast("asyncio.Task[None]", asyncio.current_task()))
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await asyncio.wait_for(asyncio.gather(*tasks), 5)


@asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[tuple[str, list[str]]]:
    """A server that answers as it is told, and the requests that it was sent."""
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        status, body = answer(asked[-1])
        head = f"HTTP/1.1 {status} x\r\nContent-Length: {len(body)}\r\nLocation: /v1/other\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()

    async with serving(serve) as address:
        yield address, asked


def with_lookup(status: int, body: bytes) -> Answer:
    """Knows the token, and answers everything else with this."""
    return lambda request: (200, b'{"data": {}}') if "lookup-self" in request else (status, body)


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (200, b"<html>a proxy's page</html>", AuthorityUnavailable, "not JSON"),
        (200, b"[" * 100_000, AuthorityUnavailable, "not JSON"),
        (200, b"[]", AuthorityUnavailable, "not JSON"),
        (200, b"{}", CertificateRefused, "no certificate"),
        (200, b'{"data": {"certificate": 7, "ca_chain": "x"}}', CertificateRefused, "no certificate"),
        (200, b'{"data": {"ca_chain": ["x"]}}', CertificateRefused, "no certificate"),
        (200, b'{"data": "' + b"x" * 10_485_760 + b'"}', CertificateRefused, "more than 524288 bytes"),
        (400, b'{"errors": ["unknown role: mesh"]}', CertificateRefused, "unknown role"),
        (403, b'{"errors": ["permission denied"]}', CertificateRefused, "permission denied"),
        (403, json.dumps({"errors": [f"{TOKEN} is bad"]}).encode(), CertificateRefused, r"\(secret\) is bad"),
        (307, b"", AuthorityUnavailable, "redirect"),
        (429, b"{}", AuthorityUnavailable, "429"),
        (500, b'{"errors": ["1 error occurred"]}', AuthorityUnavailable, "500: 1 error"),
        (503, b'{"errors": ["Vault is sealed"]}', AuthorityUnavailable, "sealed"),
    ],
)
async def test_an_answer_without_sense_is_refused_and_one_that_may_get_better_is_asked_for_again(
    tmp_path: Path, status: int, body: bytes, kind: type[MeshError], words: str
) -> None:
    async with answering(with_lookup(status, body)) as (address, asked):
        ca = opened(tmp_path, address=address)
        with pytest.raises(kind, match=words) as failure:
            await ca.sign(CSR_PEM, WEB, HOUR)
        await ca.close()
    assert TOKEN not in f"{failure.value}{failure.value.next_step}"
    assert not any("/v1/other" in request.partition("\r\n")[0] for request in asked)


async def test_a_server_that_sends_a_byte_now_and_then_is_cut_off_at_the_deadline(tmp_path: Path) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 x\r\nContent-Length: 100000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with serving(drip) as address:
        ca = opened(tmp_path, address=address, timeout="200ms")
        began = time.monotonic()
        with pytest.raises(AuthorityUnavailable, match="no answer"):
            await ca.sign(CSR_PEM, WEB, HOUR)
        assert time.monotonic() - began < 2
        await ca.close()


async def test_the_chain_is_the_leaf_and_its_issuers_each_once_and_the_name_and_life_are_asked_for(
    tmp_path: Path,
) -> None:
    data = {"certificate": "LEAF", "ca_chain": ["MIDDLE\n", ROOT.pem], "issuing_ca": "MIDDLE"}
    async with answering(with_lookup(200, json.dumps({"data": data}).encode())) as (address, asked):
        ca = opened(tmp_path, address=address, mount="pki/mesh", role="svc-{service}", namespace="team")
        chain = await ca.sign(CSR_PEM, WEB, HOUR)
        await ca.close()
    assert chain.decode() == f"LEAF\nMIDDLE\n{ROOT.pem}"
    assert asked[-1].startswith("POST /v1/pki/mesh/sign/svc-web HTTP/1.1\r\n")
    assert f"X-Vault-Token: {TOKEN}\r\n" in asked[-1] and "X-Vault-Namespace: team\r\n" in asked[-1]


async def test_a_token_file_that_is_open_to_others_or_empty_is_not_used(tmp_path: Path) -> None:
    ca = opened(tmp_path)
    (tmp_path / "token").chmod(0o644)
    with pytest.raises(AuthorityUnavailable, match="can be read by other users"):
        await ca.sign(CSR_PEM, WEB, HOUR)
    (tmp_path / "token").chmod(0o600)
    (tmp_path / "token").write_text("two\nlines")
    with pytest.raises(AuthorityUnavailable, match="does not hold a secret"):
        await ca.sign(CSR_PEM, WEB, HOUR)
    await ca.close()
