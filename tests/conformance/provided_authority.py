"""The provider `authority` for the suites: over real TLS, at an authority that the test plays with the built-in CA's root."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from meshagent.ca import open_authority
from meshagent.ca.builtin import open_builtin
from meshagent.ca.issuance import Issuer, issue, to_pem
from meshagent.ca.root_files import load_root
from meshagent.ca.x509 import host_id, new_key_and_csr
from meshagent.errors import AuthorityUnavailable, CertificateRefused
from meshagent.private import private_dir, write_private
from tests.conformance.provided import Provided
from tests.system.impostors import standing

SIGNS = True
DOMAIN = "mesh.internal"


def now() -> datetime:
    return datetime.now(UTC)


class Signing:
    """What the played authority is certified by."""

    def __init__(self, issuer: Issuer) -> None:
        self.issuer = issuer

    def certify(self, key, *uris: str) -> str:
        return to_pem(issue(key, uris[0], timedelta(hours=1), self.issuer, now())).decode()


@asynccontextmanager
async def provided(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Provided]:
    ca = open_builtin(tmp_path / "ca", DOMAIN, clock=now)
    issuer = load_root(tmp_path / "ca")
    assert issuer is not None
    root = to_pem(issuer.certificate)

    def sign(body: dict) -> object:
        try:
            chain = ca._sign(body["csr"].encode(), body["spiffe_id"], timedelta(seconds=body["ttl_seconds"]))
        except (CertificateRefused, AuthorityUnavailable) as error:
            return 403, {"code": error.code, "message": error.message, "next_step": error.next_step}
        return {"chain": chain.decode()}

    data = private_dir(tmp_path / "host")
    key, _ = new_key_and_csr()
    own = issue(
        serialization.load_pem_private_key(key, None).public_key(),
        host_id(DOMAIN, "vm-1"),
        timedelta(days=7),
        issuer,
        now(),
    )
    for name, pem in (("host.key", key), ("host.pem", to_pem(own)), ("roots.pem", root)):
        write_private(data / name, pem)
    told = {"trust_domain": DOMAIN, "roots": [root.decode()], "authorities": [], "now": ""}
    signing = Signing(issuer)
    async with standing(tmp_path, signing, f"spiffe://{DOMAIN}/authority/a1", roots=told, sign=sign) as played:
        played.answers["roots"] = lambda _: told | {"now": now().isoformat()}
        settings = {"addresses": [played.address]}
        client = open_authority("authority", settings, trust_domain=DOMAIN, data_dir=data, clock=now)
        yield Provided(client, DOMAIN, timedelta(hours=1))
