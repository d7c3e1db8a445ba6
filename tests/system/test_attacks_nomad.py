"""Attack test 41: workloads that show a JWT of Nomad's, and those who show something like it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from contextlib import asynccontextmanager

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from meshagent.errors import AuthorityUnavailable, CertificateRefused
from tests.system.authorities import Daemon, World, asked, leaf_of, svc, world
from tests.system.live import free_port

pytestmark = pytest.mark.system
RULES = [
    {"namespace": "default", "job": "shop", "task": "web", "services": ["web", "assets"]},
    {"namespace": "default", "job": "shop", "service": "payments-svc", "services": ["payments"]},
]
RSA_KEY = rsa.generate_private_key(65537, 2048)
ED_KEY = ed25519.Ed25519PrivateKey.generate()
_HOUR = 3600


class Nomad:
    """Publishes keys as Nomad does, and counts who reads them."""

    def __init__(self) -> None:
        self.keys: dict[str, object] = {"k1": RSA_KEY, "k2": ED_KEY}
        self.reads = 0
        self.port = free_port()

    def jwks(self) -> dict[str, object]:
        algorithms = {
            rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm,
            ed25519.Ed25519PrivateKey: jwt.algorithms.OKPAlgorithm,
        }
        found = []
        for kid, key in self.keys.items():
            made = next(each for kind, each in algorithms.items() if isinstance(key, kind))
            found.append(json.loads(made.to_jwk(key.public_key())) | {"kid": kid, "use": "sig"})
        secret = base64.urlsafe_b64encode(b"k" * 32).decode().rstrip("=")
        return {"keys": [*found, {"kty": "oct", "kid": "shared", "k": secret}]}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.reads += 1
        body = json.dumps(self.jwks()).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n")
        writer.write(f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()


def claims(**changes: object) -> dict[str, object]:
    now = int(time.time())
    found: dict[str, object] = {
        "aud": "meshagent",
        "exp": now + _HOUR,
        "nbf": now - 5,
        "iat": now - 5,
        "sub": "global:default:shop:group:web:default",
        "nomad_namespace": "default",
        "nomad_job_id": "shop",
        "nomad_task": "web",
        **changes,
    }
    return {key: value for key, value in found.items() if value is not None}


def token(key: object = RSA_KEY, algorithm: str = "RS256", kid: str | None = "k1", **changes: object) -> str:
    headers = {"kid": kid} if kid else {}
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers=headers)


def hand_made(header: dict, secret: bytes = b"") -> str:
    """A token that no library would make."""
    parts = [base64.urlsafe_b64encode(json.dumps(each).encode()).decode().rstrip("=") for each in (header, claims())]
    signed = ".".join(parts)
    mac = hmac.new(secret, signed.encode(), hashlib.sha256).digest() if secret else b""
    return f"{signed}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


@asynccontextmanager
async def nomad_world(strangers: int = 1000):
    nomad = Nomad()
    server = await asyncio.start_server(nomad.serve, "127.0.0.1", nomad.port)
    async with server, world() as made:
        url = f"http://127.0.0.1:{nomad.port}/.well-known/jwks.json"
        rates = {"enrol_per_address": strangers}
        daemon = await made.found(nomad={"jwks_url": url, "rules": RULES}, rate_limits=rates)
        await daemon.start()
        yield nomad, made, daemon


async def signed(made: World, daemon: Daemon, shown: str, service: str = "web") -> list[str]:
    answer = await made.stranger(daemon.address).post("/v1/sign", asked(service), bearer=shown)
    leaf = leaf_of(answer["chain"])
    return [
        each.value
        for extension in leaf.extensions
        if hasattr(extension.value, "get_values_for_type")
        for each in extension.value
    ]


async def test_attack_41_jwt():
    async with nomad_world() as (nomad, made, daemon):
        assert await signed(made, daemon, token()) == [svc("web")]
        assert await signed(made, daemon, token(ED_KEY, "EdDSA", "k2"), "assets") == [svc("assets")]
        by_service = {"nomad_task": None, "nomad_service": "payments-svc"}
        assert await signed(made, daemon, token(**by_service), "payments") == [svc("payments")]
        public = RSA_KEY.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        bad = {
            "wrong aud": token(aud="other"),
            "no aud": token(aud=None),
            "alg none": hand_made({"alg": "none", "kid": "k1"}),
            "alg None in other letters": hand_made({"alg": "nOnE", "kid": "k1"}),
            "HS256 with the public key": hand_made({"alg": "HS256", "kid": "k1"}, public),
            "HS256 with a published secret": hand_made({"alg": "HS256", "kid": "shared"}, b"k" * 32),
            "RS512": token(algorithm="RS512"),
            "EdDSA claimed for an RSA key": token(ED_KEY, "EdDSA", "k1"),
            "expired": token(exp=int(time.time()) - 60),
            "no exp": token(exp=None),
            "not begun": token(nbf=int(time.time()) + 120),
            "other job": token(nomad_job_id="blog"),
            "a job whose name begins alike": token(nomad_job_id="shop2"),
            "other namespace": token(nomad_namespace="staging"),
            "other task": token(nomad_task="batch"),
            "a task with the name of a service": token(nomad_task="payments-svc"),
            "no job": token(nomad_job_id=None),
            "a job that is no text": token(nomad_job_id=["shop"]),
            "unknown kid": token(kid="k9"),
            "no kid": token(kid=None),
            "another key": token(rsa.generate_private_key(65537, 2048)),
            "nonsense": "a.b.c",
            "empty": ".",
            "long": "a" * 7000,
        }
        for case, shown in bad.items():
            with pytest.raises(CertificateRefused):
                assert await signed(made, daemon, shown) is None, case
        with pytest.raises(CertificateRefused, match="may not be payments"):
            await signed(made, daemon, token(), "payments")
        assert nomad.reads <= 2, "an unknown kid makes it read the keys once a minute at most"
        lines = daemon.audit()
        assert lines[0]["by"] == "nomad:default/shop/web"
        text = (daemon.folder / "log").read_text() + json.dumps(lines)
        assert not [case for case, shown in bad.items() if len(shown) > 10 and shown in text], "tokens stay out of logs"


async def test_attack_41_a_flood_of_nonsense_is_cut_off_and_good_workloads_are_not():
    async with nomad_world(strangers=12) as (_, made, daemon):
        flood = (signed(made, daemon, token(aud="other")) for _ in range(20))
        outcomes = await asyncio.gather(*flood, return_exceptions=True)
        assert len([each for each in outcomes if isinstance(each, AuthorityUnavailable)]) >= 14
        assert len(daemon.audit()) <= 6, "it does not fill the disk"
        assert await signed(made, daemon, token()) == [svc("web")]


async def test_attack_41_a_key_that_nomad_rotated():
    async with nomad_world() as (nomad, made, daemon):
        nomad.keys = {}
        with pytest.raises(CertificateRefused):
            await signed(made, daemon, token())
        nomad.keys = {"k1": RSA_KEY}
        with pytest.raises(CertificateRefused):
            await signed(made, daemon, token())
        assert nomad.reads == 1, "the keys were read less than a minute ago"


async def test_without_rules_no_workload_is_taken_and_without_keys_none_can_be():
    async with world() as made:
        daemon = await made.found()
        await daemon.start()
        with pytest.raises(CertificateRefused, match="takes no Nomad identities"):
            await signed(made, daemon, token())
        nobody = f"http://127.0.0.1:{free_port()}/jwks.json"
        daemon.settings["nomad"] = {"jwks_url": nobody, "rules": RULES}
        daemon.write()
        assert daemon.process
        daemon.process.send_signal(1)
        await daemon.until("settings_read")
        with pytest.raises(AuthorityUnavailable, match="Nomad's keys cannot be read"):
            await signed(made, daemon, token())
