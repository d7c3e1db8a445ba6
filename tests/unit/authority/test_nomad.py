"""Claims to services, published keys to usable ones, and when the keys are read again."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from meshagent.authority.nomad import Workloads, parse_keys, workload_of
from meshagent.config.authority import NomadConfig, NomadRule
from meshagent.errors import AuthorityUnavailable, CertificateRefused

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
FIRST, SECOND = ed25519.Ed25519PrivateKey.generate(), ed25519.Ed25519PrivateKey.generate()
RULES = (
    NomadRule(job="shop", task="web", services=("web", "assets")),
    NomadRule(job="shop", task="web", services=("more",)),
    NomadRule(namespace="staging", job="shop", service="web", services=("web-staging",)),
)
CLAIMS = {"nomad_namespace": "default", "nomad_job_id": "shop", "nomad_task": "web"}


def jwk(key, kid: str, **more: str) -> dict[str, str]:
    kinds = {
        ed25519.Ed25519PrivateKey: jwt.algorithms.OKPAlgorithm,
        rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm,
        ec.EllipticCurvePrivateKey: jwt.algorithms.ECAlgorithm,
    }
    made = next(algorithm for kind, algorithm in kinds.items() if isinstance(key, kind))
    return json.loads(made.to_jwk(key.public_key())) | {"kid": kid, **more}


def jwks(*keys: dict[str, str]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def test_all_rules_that_fit_add_up():
    found = workload_of(CLAIMS, RULES)
    assert found.services == {"web", "assets", "more"}
    assert found.name == "nomad:default/shop/web"


@pytest.mark.parametrize(
    "change",
    [
        {"nomad_job_id": "shop-2"},
        {"nomad_job_id": "sho"},
        {"nomad_namespace": "staging"},
        {"nomad_task": "Web"},
        {"nomad_task": ""},
        {"nomad_task": None},
        {"nomad_task": "", "nomad_service": "web"},
        {"nomad_job_id": {"shop": 1}},
        {"nomad_job_id": "s" * 300},
        {"nomad_namespace": None},
    ],
)
def test_what_no_rule_names_exactly_is_nobody(change):
    with pytest.raises(CertificateRefused):
        workload_of(CLAIMS | change, RULES)


def test_a_service_identity_is_not_a_task_identity():
    claims = {"nomad_namespace": "staging", "nomad_job_id": "shop", "nomad_service": "web"}
    assert workload_of(claims, RULES).services == {"web-staging"}
    with pytest.raises(CertificateRefused):
        workload_of(claims | {"nomad_service": "", "nomad_task": "web"}, RULES)


def test_of_published_keys_only_rsa_and_ed25519_for_signatures_are_used():
    rsa_key = rsa.generate_private_key(65537, 2048)
    listed = jwks(
        jwk(rsa_key, "rsa"),
        jwk(FIRST, "ed"),
        jwk(ec.generate_private_key(ec.SECP256R1()), "ec"),
        jwk(rsa_key, "for-encryption", use="enc"),
        jwk(rsa_key, "rs512", alg="RS512"),
        {"kty": "oct", "kid": "secret", "k": "AAAA"},
        {"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"},
        {"kty": "OKP", "crv": "X25519", "kid": "x", "x": "AAAA"},
        jwk(SECOND, "ed"),
    )
    found = parse_keys(listed)
    assert sorted(found) == ["ed", "rsa"]
    assert (found["ed"].algorithm_name, found["rsa"].algorithm_name) == ("EdDSA", "RS256")


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"null", b"[" * 100_000])
def test_what_is_no_list_of_keys_is_told(text):
    with pytest.raises(AuthorityUnavailable):
        parse_keys(text)


async def test_a_rotated_key_is_read_at_most_once_a_minute(tmp_path):
    file, ticks = tmp_path / "jwks.json", [0.0]
    file.write_bytes(jwks(jwk(FIRST, "one")))
    config = NomadConfig(jwks_file=file, rules=RULES)
    workloads = Workloads(config, lambda: NOW, lambda: ticks[0])
    assert (await workloads.judge(shown(FIRST, "one"))).job == "shop"
    file.write_bytes(jwks(jwk(SECOND, "two")))
    for ticks[0] in (1.0, 59.0):
        with pytest.raises(CertificateRefused, match="does not publish"):
            await workloads.judge(shown(SECOND, "two"))
        assert await workloads.judge(shown(FIRST, "one")), "what is known is not read again"
    ticks[0] = 60.0
    assert (await workloads.judge(shown(SECOND, "two"))).job == "shop"
    with pytest.raises(CertificateRefused, match="does not publish"):
        await workloads.judge(shown(FIRST, "one"))


@pytest.mark.parametrize(
    ("exp", "nbf", "good"), [(31, -31, True), (-29, 29, True), (-30, 0, False), (60, 31, False), (1e9, "soon", False)]
)
async def test_times_are_judged_by_the_authoritys_clock(tmp_path, exp, nbf, good):
    file = tmp_path / "jwks.json"
    file.write_bytes(jwks(jwk(FIRST, "one")))
    workloads = Workloads(NomadConfig(jwks_file=file, rules=RULES), lambda: NOW, lambda: 0.0)
    at = NOW.timestamp()
    text = shown(FIRST, "one", exp=at + exp, nbf=nbf if isinstance(nbf, str) else at + nbf)
    if good:
        assert await workloads.judge(text)
    else:
        with pytest.raises(CertificateRefused):
            await workloads.judge(text)


def shown(key, kid: str, **more: object) -> str:
    claims = {"aud": ["other", "meshagent"], "exp": NOW.timestamp() + 60, **CLAIMS, **more}
    return jwt.encode(claims, key, algorithm="EdDSA", headers={"kid": kid})
