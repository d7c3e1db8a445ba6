"""Vault's PKI, on a real OpenBao: ways to log in, tokens that end, rights that are missing, and what it lies about."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from structlog.testing import capture_logs

from meshagent.ca.base import obtain
from meshagent.ca.vault import VaultAuthority, open_authority
from meshagent.ca.x509 import accept
from meshagent.errors import AuthorityUnavailable, CertificateRefused
from meshagent.model.identity import Svid
from tests.servers.openbao import OpenBao

pytestmark = pytest.mark.conformance

DOMAIN = "mesh.internal"
TTL = timedelta(minutes=10)


class Client:
    """An agent's side of an OpenBao with one PKI engine, whose token may sign for `web` alone."""

    def __init__(self, bao: OpenBao, directory: Path) -> None:
        self.bao, self.directory = bao, directory
        self.mount = bao.pki(DOMAIN, ("web", "orders"))
        self.policy = bao.policy(self.mount, "web")
        self.opened: list[VaultAuthority] = []

    def file(self, name: str, secret: str) -> str:
        place = self.directory / name
        place.touch(0o600)
        place.write_text(f"{secret}\n")
        return str(place)

    def open(self, **settings: object) -> VaultAuthority:
        given = {"address": self.bao.address, "mount": self.mount, "role": "svc-{service}", **settings}
        made = open_authority(given, trust_domain=DOMAIN, data_dir=self.directory, clock=lambda: datetime.now(UTC))
        self.opened.append(made)
        return made

    def by_token(self, **more: object) -> VaultAuthority:
        return self.open(token_file=self.file("token", self.bao.token(self.policy, **more)))

    async def certified(self, ca: VaultAuthority, service: str = "web") -> Svid:
        name = f"spiffe://{DOMAIN}/svc/{service}"
        issued = await obtain(ca, name, TTL)
        bundle, now = await ca.bundle(), datetime.now(UTC)
        return accept(issued.chain_pem, issued.key_pem, name, bundle, DOMAIN, now, TTL)


@pytest.fixture
async def client(openbao_server: OpenBao, tmp_path: Path):
    made = Client(openbao_server, tmp_path)
    yield made
    for authority in made.opened:
        await authority.close()


async def test_approle_logs_in_and_reads_its_secret_again_when_the_token_is_gone(client: Client) -> None:
    mount = client.bao.enable("approle")
    client.bao.call("POST", f"auth/{mount}/role/web", {"token_policies": [client.policy], "token_ttl": "10m"})
    role_id = client.bao.call("GET", f"auth/{mount}/role/web/role-id")["data"]["role_id"]
    make = lambda: client.bao.call("POST", f"auth/{mount}/role/web/secret-id", {})["data"]  # noqa: E731
    first = make()
    approle = {"role_id": role_id, "secret_id_file": client.file("secret", first["secret_id"]), "mount": mount}
    ca = client.open(approle=approle)
    assert (await client.certified(ca)).spiffe_id.endswith("/web")
    token = await ca._who().token()
    client.bao.call("POST", f"auth/{mount}/role/web/secret-id/destroy", {"secret_id": first["secret_id"]})
    client.bao.call("POST", "auth/token/revoke", {"token": token})
    with pytest.raises(CertificateRefused, match="refuses the login") as refusal:
        await client.certified(ca)
    assert first["secret_id"] not in f"{refusal.value}{refusal.value.next_step}"
    client.file("secret", make()["secret_id"])
    assert (await client.certified(ca)).spiffe_id.endswith("/web")
    assert (await ca.check()).ok


class Issuer:
    """Whoever gives workloads their JWTs, such as Nomad."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(65537, 2048)
        public = self.key.public_key()
        self.pem = public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode()

    def token(self, job: str = "web", life: float = 600) -> str:
        now = int(time.time())
        said = {"aud": "meshagent", "iat": now - 600, "nbf": now - 600, "exp": int(now + life), "nomad_job_id": job}
        text = b".".join(map(_encoded, (json.dumps({"alg": "RS256"}).encode(), json.dumps(said).encode())))
        return (text + b"." + _encoded(self.key.sign(text, padding.PKCS1v15(), hashes.SHA256()))).decode()


def _encoded(part: bytes) -> bytes:
    return base64.urlsafe_b64encode(part).rstrip(b"=")


async def test_a_jwt_logs_in_and_is_read_again_and_that_of_another_job_is_refused(client: Client) -> None:
    mount, issuer = client.bao.enable("jwt"), Issuer()
    client.bao.call("POST", f"auth/{mount}/config", {"jwt_validation_pubkeys": [issuer.pem]})
    role = {
        "role_type": "jwt",
        "bound_audiences": ["meshagent"],
        "user_claim": "nomad_job_id",
        "bound_claims": {"nomad_job_id": "web"},
        "token_policies": [client.policy, "default"],
        "token_ttl": "2s",
        "token_type": "batch",
    }
    client.bao.call("POST", f"auth/{mount}/role/web", role)
    ca = client.open(jwt={"role": "web", "jwt_file": client.file("jwt", issuer.token()), "mount": mount})
    assert (await client.certified(ca)).spiffe_id.endswith("/web")
    first = await ca._who().token()
    await asyncio.sleep(2.1)  # a batch token cannot be renewed: past its end there is a new login
    assert (await client.certified(ca)).spiffe_id.endswith("/web")
    assert await ca._who().token() != first
    for bad in (issuer.token("orders"), issuer.token(life=-400), Issuer().token()):
        client.file("jwt", bad)
        other = client.open(jwt={"role": "web", "jwt_file": str(client.directory / "jwt"), "mount": mount})
        with pytest.raises(CertificateRefused, match="refuses the login") as refusal:
            await client.certified(other)
        assert bad not in str(refusal.value) and bad.split(".")[2] not in str(refusal.value)


async def test_a_token_is_renewed_while_it_may_be_and_one_that_was_replaced_is_used_at_once(client: Client) -> None:
    ca = client.by_token(period="2s")
    assert (await client.certified(ca)).spiffe_id.endswith("/web")
    await asyncio.sleep(3.5)
    assert (await client.certified(ca)).spiffe_id.endswith("/web")
    other = client.bao.token(client.policy)
    client.file("token", other)
    assert await ca._who().token() == other
    assert (await client.certified(ca)).spiffe_id.endswith("/web")


async def test_a_token_that_vault_does_not_know_is_a_refusal_that_names_no_token(client: Client) -> None:
    ca = client.open(token_file=client.file("token", "s.not-a-token-at-all"))
    with pytest.raises(CertificateRefused, match="permission denied") as refusal:
        await client.certified(ca)
    health = await ca.check()
    assert not health.ok
    assert "not-a-token" not in f"{refusal.value}{refusal.value.next_step}{health}"


async def test_another_services_role_a_role_that_is_not_there_and_another_engine_are_refused(client: Client) -> None:
    ca = client.by_token()
    with pytest.raises(CertificateRefused, match="permission denied"):
        await client.certified(ca, "orders")
    everything = client.file("root", "root")
    with pytest.raises(CertificateRefused, match="unknown role"):
        await client.certified(client.open(token_file=everything, role="none"))
    with pytest.raises(CertificateRefused, match="route"):
        await client.certified(client.open(token_file=everything, mount="none"))
    assert "no issuers" in (await client.open(token_file=everything, mount="none").check()).problems[0]


async def test_a_role_for_another_name_refuses_and_one_that_drops_the_name_is_found_out(client: Client) -> None:
    client.bao.role(client.mount, "svc-web", f"spiffe://{DOMAIN}/svc/web2")
    with pytest.raises(CertificateRefused, match="not valid for this role"):
        await client.certified(client.by_token())
    client.bao.role(client.mount, "svc-web", f"spiffe://{DOMAIN}/svc/web", client_flag=False)
    with pytest.raises(CertificateRefused, match="clientAuth"):
        await client.certified(client.by_token())


async def test_a_role_that_takes_the_names_of_the_csr_does_as_well(client: Client) -> None:
    client.bao.role(client.mount, "svc-web", f"spiffe://{DOMAIN}/svc/web", use_csr_sans=True)
    assert (await client.certified(client.by_token())).spiffe_id.endswith("/web")


async def test_a_new_issuer_beside_the_old_brings_its_root_into_the_bundle(client: Client) -> None:
    ca = client.by_token()
    before = (await ca.bundle()).of(DOMAIN)
    wanted = {"common_name": "second root", "ttl": "100h", "key_type": "ec", "key_bits": 256}
    client.bao.call("POST", f"{client.mount}/root/generate/internal", wanted)
    after = (await ca.bundle()).of(DOMAIN)
    assert len(before) == 1 and len(after) == 2 and set(before) < set(after)


async def test_a_vault_that_hangs_or_is_gone_is_a_failure_that_passes(client: Client) -> None:
    ca = client.by_token()
    slow = client.open(token_file=str(client.directory / "token"), timeout="500ms")
    assert (await client.certified(ca)).spiffe_id.endswith("/web")
    client.bao.freeze()
    try:
        began = time.monotonic()
        with pytest.raises(AuthorityUnavailable, match=r"no answer within 0\.5 s"):
            await client.certified(slow)
        assert time.monotonic() - began < 2
    finally:
        client.bao.thaw()
    assert (await client.certified(slow)).spiffe_id.endswith("/web")
    gone = client.open(token_file=str(client.directory / "token"), address="http://127.0.0.1:9")
    with pytest.raises(AuthorityUnavailable, match="cannot be reached"):
        await client.certified(gone)
    assert not (await gone.check()).ok


async def test_what_is_logged_of_a_login_holds_no_secret(client: Client) -> None:
    mount = client.bao.enable("approle")
    client.bao.call("POST", f"auth/{mount}/role/web", {"token_policies": [client.policy], "token_ttl": "10m"})
    role_id = client.bao.call("GET", f"auth/{mount}/role/web/role-id")["data"]["role_id"]
    secret = client.bao.call("POST", f"auth/{mount}/role/web/secret-id", {})["data"]["secret_id"]
    ca = client.open(approle={"role_id": role_id, "secret_id_file": client.file("secret", secret), "mount": mount})
    with capture_logs() as logged:
        await client.certified(ca)
    said = repr(logged) + repr(ca._who()._token)
    assert "vault_login_done" in said and secret not in said and await ca._who().token() not in said
