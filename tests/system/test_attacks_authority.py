"""Attacks on the signing authority: a live daemon, real TLS, and callers who want more than they were granted."""

from __future__ import annotations

import asyncio
import json
import ssl
from datetime import timedelta

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from meshagent.authority.requests import MAX_BODY
from meshagent.ca.authority_calls import known_by
from meshagent.ca.x509 import key_to_pem
from meshagent.errors import AuthorityUnavailable, CertificateRefused, EnrolmentRefused
from meshagent.private import write_private
from meshagent.state.tokens import allow, deny, grants
from tests.system.authorities import (
    DOMAIN,
    KEYS,
    Host,
    World,
    asked,
    author,
    csr,
    descriptors,
    leaf_of,
    now,
    post,
    svc,
    world,
)

pytestmark = pytest.mark.system
EXTENSIONS = (
    x509.SubjectAlternativeName(
        [
            x509.UniformResourceIdentifier(f"spiffe://{DOMAIN}/svc/payments"),
            x509.UniformResourceIdentifier(f"spiffe://{DOMAIN}/authority/a1"),
            x509.DNSName("payments.internal"),
        ]
    ),
    x509.BasicConstraints(ca=True, path_length=5),
    x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]),
)


async def enrolled(made: World, token: str, name: str, address: str = "") -> dict:
    """Bare enrolment, without what a good host checks."""
    calls = made.stranger(*([address] if address else []))
    body = {"token": token, "host": name, "csr": csr()}
    return await calls.post("/v1/enrol", body, refusal=EnrolmentRefused)


async def test_attack_38_csr_for_another_service():
    async with world() as made:
        daemon = await made.found()
        await daemon.start()
        web = await made.join("vm-1", "web")
        await made.join("vm-2", "payments")
        calls = web.calls(daemon.address)
        good = leaf_of((await calls.post("/v1/sign", asked("web")))["chain"])
        assert names(good) == [svc("web")]
        others = (
            "payments",
            "*",
            "web/../payments",
            "web%2f",
            "Web",
            "",
        )
        wanted = [svc(each) for each in others]
        wanted += [
            "spiffe://other.internal/svc/web",
            f"spiffe://{DOMAIN}/host/vm-2",
            f"spiffe://{DOMAIN}/authority/a1",
            f"spiffe://{DOMAIN}/ns/default/dc/dc1/svc/web",
            f"spiffe://{DOMAIN}",
            f"SPIFFE://{DOMAIN}/svc/web",
            f"spiffe://{DOMAIN}/svc/web\n",
        ]
        for identity in wanted:
            with pytest.raises(CertificateRefused):
                await calls.post("/v1/sign", asked("web") | {"spiffe_id": identity})
        refused = [line for line in daemon.audit() if line["verdict"] == "refused"]
        assert [line["spiffe_id"] for line in refused] == wanted
        assert {line["by"] for line in refused} == {"host:vm-1"}


async def test_attack_39_only_the_public_key_of_a_csr_counts():
    async with world() as made:
        daemon = await made.found(max_ttl="30m")
        await daemon.start()
        calls = (await made.join("vm-1", "web")).calls(daemon.address)
        greedy = csr(None, *EXTENSIONS, common_name="payments")
        leaf = leaf_of((await calls.post("/v1/sign", asked("web", greedy, ttl=365 * 86400)))["chain"])
        assert names(leaf) == [svc("web")]
        assert list(leaf.subject) == []
        assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        assert (
            ExtendedKeyUsageOID.CODE_SIGNING not in leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        )
        assert leaf.not_valid_after_utc <= now() + timedelta(minutes=30)
        key = ec.generate_private_key(ec.SECP256R1())
        der = x509.load_pem_x509_csr(csr(key).encode()).public_bytes(serialization.Encoding.DER)
        forged = x509.load_der_x509_csr(der[:-1] + bytes([der[-1] ^ 1]))
        bad = {
            "RSA of 1024 bits": csr(rsa.generate_private_key(65537, 1024)),
            "curve secp192r1": csr(ec.generate_private_key(ec.SECP192R1())),
            "not signed by its own key": forged.public_bytes(serialization.Encoding.PEM).decode(),
            "cannot be read": "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        }
        for reason, request in bad.items():
            with pytest.raises(CertificateRefused, match=reason):
                await calls.post("/v1/sign", asked("web", request))
        for ttl in (0, -1, 1e300):
            with pytest.raises(CertificateRefused, match="ttl_seconds"):
                await calls.post("/v1/sign", asked("web", ttl=ttl))


async def test_attack_40_a_join_token_is_good_once_for_its_host_in_its_time():
    async with world() as made:
        daemon = await made.found(rate_limits={"enrol_per_address": 1000})
        await daemon.start()
        token, old, other = await made.token("vm-1"), await made.token("vm-2"), await made.token("vm-3")
        await made.age(old)
        with pytest.raises(EnrolmentRefused, match="another host"):
            await enrolled(made, other, "vm-4")
        with pytest.raises(EnrolmentRefused, match="ended at"):
            await enrolled(made, old, "vm-2")
        with pytest.raises(EnrolmentRefused, match="not known"):
            await enrolled(made, token[:-1] + ("A" if token[-1] != "A" else "B"), "vm-1")
        tries = await asyncio.gather(*(enrolled(made, token, "vm-1") for _ in range(8)), return_exceptions=True)
        assert len([each for each in tries if isinstance(each, dict)]) == 1
        assert all("used" in str(each) for each in tries if not isinstance(each, dict))
        with pytest.raises(EnrolmentRefused, match="used already"):
            await enrolled(made, token, "vm-1")
        assert (await enrolled(made, other, "vm-3"))["services"] == ["web"], "a wrong host did not use it up"
        async with made.store() as store:
            held = (await store.read(KEYS.authority)).entries.values()
        assert token.encode() not in b"".join(entry.value for entry in held), "the store never sees a token"
        assert token not in (daemon.folder / "log").read_text() + (daemon.data / "audit.jsonl").read_text()


async def test_attack_40_guessing_meets_a_rate_limit_that_others_do_not_feel():
    async with world() as made:
        daemon = await made.found(rate_limits={"enrol_per_address": 12})
        await daemon.start()
        token = await made.token("vm-1")
        guesses = [enrolled(made, f"{place:043d}", "vm-1") for place in range(20)]
        outcomes = await asyncio.gather(*guesses, return_exceptions=True)
        assert len([each for each in outcomes if isinstance(each, AuthorityUnavailable)]) >= 15
        assert len([each for each in outcomes if isinstance(each, EnrolmentRefused)]) <= 5
        with pytest.raises(AuthorityUnavailable, match="too often"):
            await enrolled(made, token, "vm-1")
        assert (await made.stranger().get("/v1/roots"))["trust_domain"] == DOMAIN
        lines = [line for line in daemon.audit() if line["verdict"] == "refused"]
        assert len(lines) <= 5, "a flood does not fill the disk"
        async with aiohttp.ClientSession() as session, session.get(f"http://{daemon.metrics}/metrics") as page:
            assert 'refused_total{reason="rate"}' in await page.text()


async def test_attack_42_renewal_with_a_certificate_of_a_service_of_nobody_or_one_that_ended():
    async with world() as made:
        daemon = await made.found(host_ttl="3s")
        await daemon.start()
        host = await made.join("vm-1", "web")
        calls = host.calls(daemon.address)
        key = serialization.load_pem_private_key((host.folder / "host.key").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        renewed = await calls.post("/v1/renew", {"csr": csr(key)})
        assert names(leaf_of(renewed["chain"])) == [f"spiffe://{DOMAIN}/host/vm-1"]
        with pytest.raises(CertificateRefused, match="joins anew"):
            await calls.post("/v1/renew", {"csr": csr()})
        with pytest.raises(CertificateRefused, match="no host's certificate"):
            await made.stranger().post("/v1/renew", {"csr": csr()})
        as_service = await service_host(made, calls)
        with pytest.raises(CertificateRefused, match="is no host's"):
            await as_service.calls(daemon.address).post("/v1/renew", {"csr": csr()})
        with pytest.raises(CertificateRefused, match="is no host's"):
            await as_service.calls(daemon.address).post("/v1/sign", asked("web"))
        await asyncio.sleep(3.2)
        with pytest.raises(AuthorityUnavailable):
            await calls.post("/v1/renew", {"csr": csr(key)})


async def service_host(made: World, calls) -> Host:
    """Somebody who shows a service's certificate where a host's should be."""
    key = ec.generate_private_key(ec.SECP256R1())
    chain = (await calls.post("/v1/sign", asked("web", csr(key))))["chain"]
    folder = made.folder / "as-service"
    folder.mkdir()
    write_private(folder / "host.key", key_to_pem(key))
    write_private(folder / "host.pem", chain.encode())
    return Host("web", folder, made.root)


async def test_a_host_that_joined_anew_leaves_its_old_certificate_without_use():
    async with world() as made:
        daemon = await made.found()
        await daemon.start()
        before, after = await made.join("vm-1", "web"), await made.join("vm-1", "web", "batch")
        with pytest.raises(CertificateRefused, match="another key"):
            await before.calls(daemon.address).post("/v1/sign", asked("web"))
        assert await after.calls(daemon.address).post("/v1/sign", asked("batch"))


async def test_a_denied_host_or_service_is_certified_no_more_and_again_when_allowed():
    async with world() as made:
        daemon = await made.found()
        await daemon.start()
        host = await made.join("vm-1", "web", "batch")
        calls = host.calls(daemon.address)
        async with made.store() as store:
            await deny(store, KEYS, "vm-1", "batch", author())
            await until_refused(calls, "batch")
            assert await calls.post("/v1/sign", asked("web")), "the other service is not touched"
            await deny(store, KEYS, "vm-1", "", author())
            took = await until_refused(calls, "web")
            assert took < 1.0
            with pytest.raises(EnrolmentRefused, match="denied"):
                await enrolled(made, await made.token("vm-1"), "vm-1")
            await allow(store, KEYS, "vm-1", "", author())
        for _ in range(100):
            try:
                assert await calls.post("/v1/sign", asked("web"))
                break
            except CertificateRefused:
                await asyncio.sleep(0.05)
        else:
            raise AssertionError("an allowed host is certified again")


async def until_refused(calls, service: str) -> float:
    """Seconds until this service is refused."""
    began = asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() - began < 5:
        try:
            await calls.post("/v1/sign", asked(service))
        except CertificateRefused:
            return asyncio.get_running_loop().time() - began
        await asyncio.sleep(0.02)
    raise AssertionError("it was never refused")


async def test_a_body_of_4_mb_or_of_nonsense_is_refused_and_costs_nothing():
    async with world() as made:
        daemon = await made.found()
        await daemon.start()
        context = known_by(made.root, DOMAIN)
        status, answer = await post(daemon, context, "/v1/enrol", b"x" * (4 * 1024 * 1024))
        assert (status, answer["code"]) == (413, "E101")
        status, _ = await post(daemon, context, "/v1/enrol", b"{" + b" " * (MAX_BODY - 2) + b"}")
        assert status == 400
        secret = "secret-token-of-a-host-1234567890"
        nonsense = ("[" * 60_000, "{}", "null", "\x00", json.dumps({"token": secret, "host": "../etc", "csr": ""}))
        for body in nonsense:
            status, answer = await post(daemon, context, "/v1/enrol", body.encode())
            assert status == 400 and answer["next_step"] and secret not in json.dumps(answer)
        status, _ = await post(daemon, context, "/v1/nothing", b"{}")
        assert status == 404
        assert (await made.stranger().get("/v1/health"))["ok"]
        assert "request_failed" not in {line["event"] for line in daemon.log()}


async def test_slow_callers_are_ended_and_others_are_served_meanwhile():
    async with world() as made:
        daemon = await made.found()
        await daemon.start()
        before = descriptors(daemon)
        host, _, port = daemon.address.partition(":")
        context = known_by(made.root, DOMAIN)
        silent = [await asyncio.open_connection(host, int(port)) for _ in range(50)]
        slow = [await asyncio.open_connection(host, int(port), ssl=context, server_hostname="") for _ in range(20)]
        for place, (_, writer) in enumerate(slow):
            writer.write(
                b"POST /v1/enrol HTTP/1.1\r\nContent-Length: 1000\r\n" + (b"\r\n{" if place % 2 else b"X-Slow: ")
            )
        began = asyncio.get_running_loop().time()
        assert (await made.stranger().get("/v1/roots"))["roots"]
        assert asyncio.get_running_loop().time() - began < 2
        for reader, _ in (*silent, *slow):
            async with asyncio.timeout(40):
                assert isinstance(await ended(reader), bytes)
        assert asyncio.get_running_loop().time() - began < 35
        for _, writer in (*silent, *slow):
            writer.close()
        for _ in range(100):
            if descriptors(daemon) <= before + 2:
                break
            await asyncio.sleep(0.1)
        assert descriptors(daemon) <= before + 2


async def ended(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except (ConnectionError, ssl.SSLError) as error:
        return str(error).encode()


async def test_older_tls_and_certificates_of_other_roots_do_not_get_in():
    async with world() as made:
        daemon = await made.found()
        await daemon.start()
        host, _, port = daemon.address.partition(":")
        for version in (ssl.TLSVersion.TLSv1_2,):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.maximum_version = version
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.open_connection(host, int(port), ssl=context)
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /v1/roots HTTP/1.1\r\n\r\n")
        assert b"HTTP" not in await ended(reader)
        writer.close()
        forged = forged_host(made)
        with pytest.raises(AuthorityUnavailable):
            await forged.calls(daemon.address).post("/v1/sign", asked("web"))
        assert (await made.stranger().get("/v1/health"))["ok"]


def forged_host(made: World) -> Host:
    """A host's certificate that is right but for the root it leads to."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "meshagent root")])
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), 7)
        .not_valid_before(now() - timedelta(hours=1))
        .not_valid_after(now() + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{DOMAIN}/host/vm-1")]), critical=True
        )
    )
    folder = made.folder / "forged"
    folder.mkdir()
    write_private(folder / "host.key", key_to_pem(key))
    certificate = built.sign(key, hashes.SHA256())
    write_private(folder / "host.pem", certificate.public_bytes(serialization.Encoding.PEM))
    return Host("vm-1", folder, made.root)


async def test_without_an_audit_log_nothing_is_signed_and_no_token_is_used_up():
    async with world() as made:
        daemon = await made.found()
        await daemon.start()
        host, token = await made.join("vm-1", "web"), await made.token("vm-2")
        audit = daemon.data / "audit.jsonl"
        audit.rename(daemon.data / "audit.old")
        audit.mkdir()
        with pytest.raises(AuthorityUnavailable, match="audit"):
            await host.calls(daemon.address).post("/v1/sign", asked("web"))
        with pytest.raises(AuthorityUnavailable, match="audit"):
            await enrolled(made, token, "vm-2")
        audit.rmdir()
        assert await host.calls(daemon.address).post("/v1/sign", asked("web"))
        assert await enrolled(made, token, "vm-2")


async def test_what_an_operator_sees_of_a_grant():
    async with world() as made:
        daemon = await made.found()
        await daemon.start()
        await made.join("vm-1", "web")
        async with made.store() as store:
            held = (await grants(store, KEYS))["vm-1"]
        assert (held.services, held.denied, len(held.key_sha256)) == (("web",), False, 64)
        signed = [line for line in daemon.audit() if line["verdict"] == "granted"]
        assert signed[0]["key_sha256"] == held.key_sha256


def names(certificate: x509.Certificate) -> list[str]:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [each.value for each in found]
