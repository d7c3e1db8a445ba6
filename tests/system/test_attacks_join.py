"""Attacks on a host that joins or asks for certificates: whoever stands where the authority should gets no secret."""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.x509 import load_pem_x509_csr

from meshagent.agent.enrolment import enrol
from meshagent.ca.authority import open_authority
from meshagent.ca.authority_calls import MAX_BODY
from meshagent.ca.keys import new_key_and_csr
from meshagent.errors import AuthorityUnavailable, CertificateRefused, EnrolmentRefused, UsageProblem
from meshagent.model.identity import TrustBundle
from meshagent.model.joining import JoinLine
from meshagent.private import write_private
from tests.system.impostors import DOMAIN, Root, standing

AUTHORITY = f"spiffe://{DOMAIN}/authority/a1"
TOKEN = "secret-token-of-43-characters-or-thereabouts"


def now() -> datetime:
    return datetime.now(UTC)


def line(address: str, root: Root) -> JoinLine:
    return JoinLine((address,), root.fingerprint, TOKEN, DOMAIN)


def joined(directory, root: Root, life: timedelta = timedelta(days=7), pinned: Root | None = None):
    """A host that has joined, as `join` leaves it."""
    key, _ = new_key_and_csr()
    public = serialization.load_pem_private_key(key, None).public_key()
    chain = root.certify(public, f"spiffe://{DOMAIN}/host/vm-1", life=life)
    for name, text in (("host.key", key.decode()), ("host.pem", chain), ("roots.pem", (pinned or root).pem)):
        write_private(directory / name, text.encode())
    return directory


def client(directory, *addresses: str, **more: object):
    settings = {"addresses": list(addresses), **more}
    return open_authority(settings, trust_domain=DOMAIN, data_dir=directory, clock=now)


def signer(root: Root, *uris: str):
    """What an authority does with a CSR."""

    def sign(body: dict) -> dict:
        key = load_pem_x509_csr(body["csr"].encode()).public_key()
        return {"chain": root.certify(key, *uris), "services": ["web"], "store": "consul://10.0.0.5:8500"}

    return sign


async def test_attack_44_a_newcomer_sends_its_token_to_nobody_whom_the_fingerprint_does_not_vouch_for(tmp_path):
    real, evil = Root(), Root("evil")
    names = {
        "its own root under the real name": (evil, {"roots": [evil.pem]}),
        "the real root's text with a key of its own": (evil, {"roots": [real.pem]}),
        "both roots": (evil, {"roots": [evil.pem, real.pem]}),
        "no roots": (evil, {}),
        "roots of the wrong kind": (evil, {"roots": "x"}),
    }
    for what, (issuer, roots) in names.items():
        async with standing(tmp_path, issuer, AUTHORITY, roots=roots, enrol={"chain": "x"}) as impostor:
            with pytest.raises((EnrolmentRefused, AuthorityUnavailable)):
                await enrol(line(impostor.address, real), "vm-1", tmp_path / "data", now)
            assert set(impostor.paths) <= {"/v1/roots"}, what
            assert not any(TOKEN.encode() in body for _, body in impostor.asked)
    assert not (tmp_path / "data" / "host.key").exists()


async def test_attack_44_a_service_or_host_of_the_same_mesh_is_no_authority(tmp_path):
    root = Root()
    for uri in (
        f"spiffe://{DOMAIN}/svc/authority",
        f"spiffe://{DOMAIN}/host/a1",
        f"spiffe://{DOMAIN}/authority/",
        f"spiffe://{DOMAIN}/authority/a/b",
        "spiffe://elsewhere.internal/authority/a1",
        f"spiffe://{DOMAIN}.evil/authority/a1",
    ):
        async with standing(tmp_path, root, uri, roots={"roots": [root.pem]}) as impostor:
            with pytest.raises(AuthorityUnavailable, match="no authority of"):
                await enrol(line(impostor.address, root), "vm-1", tmp_path, now)
            assert impostor.paths == ["/v1/roots"]
            with pytest.raises(AuthorityUnavailable):
                await client(joined(tmp_path, root), impostor.address).bundle()
            assert impostor.paths == ["/v1/roots"]


async def test_attack_44_two_names_in_one_certificate_are_no_authority(tmp_path):
    root = Root()
    async with standing(tmp_path, root, AUTHORITY, f"spiffe://{DOMAIN}/svc/web", roots={}) as impostor:
        with pytest.raises(AuthorityUnavailable):
            await client(joined(tmp_path, root), impostor.address).bundle()
        assert impostor.asked == []


async def test_attack_44_a_joined_host_asks_nobody_whom_its_pinned_roots_do_not_vouch_for(tmp_path):
    root, evil = Root(), Root("evil")
    directory = joined(tmp_path, root)
    async with (
        standing(tmp_path, evil, AUTHORITY, sign={"chain": "x"}) as impostor,
        standing(tmp_path, root, AUTHORITY, newest=ssl.TLSVersion.TLSv1_2, sign={"chain": "x"}) as old,
    ):
        _, csr = new_key_and_csr()
        with pytest.raises(AuthorityUnavailable):
            await client(directory, impostor.address, old.address).sign(csr, f"spiffe://{DOMAIN}/svc/web", timedelta(1))
        assert impostor.asked == old.asked == []


@pytest.mark.parametrize("roots", ["", "-----BEGIN NOTHING-----"])
async def test_attack_44_an_agent_without_a_pinned_root_refuses_to_start(tmp_path, roots):
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    if roots:
        write_private(data / "roots.pem", roots.encode())
    config = tmp_path / "agent.yaml"
    config.write_text(
        f"data_dir: {data}\nruntime_dir: {tmp_path}/run\nmetrics: none\nhost: {{name: vm-1}}\n"
        "ca: {provider: authority, addresses: ['127.0.0.1:1']}\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "meshagent", "agent", "--config", str(config)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={name: value for name, value in os.environ.items() if not name.startswith("MESHAGENT_")},
    )
    said = (await process.communicate())[0].decode()
    assert process.returncode == 2
    assert "no root is pinned" in said and "meshagent join" in said


def test_attack_44_there_is_no_switch_that_turns_the_check_off(tmp_path):
    joined(tmp_path, Root())
    for key in ("insecure", "verify", "tls_skip_verify", "skip_verify"):
        with pytest.raises(UsageProblem, match=key):
            client(tmp_path, "127.0.0.1:1", **{key: True})


async def test_a_host_joins_an_authority_that_the_fingerprint_vouches_for(tmp_path):
    root = Root()
    told = {"roots": [root.pem, Root("next").pem], "authorities": ["10.0.0.6:8443", "not a place"]}
    enrolled = signer(root, f"spiffe://{DOMAIN}/host/vm-1")
    async with standing(tmp_path, root, AUTHORITY, roots=told, enrol=enrolled) as authority:
        made = await enrol(line(authority.address, root), "vm-1", tmp_path / "data", now)
    assert made.services == ("web",) and made.store == "consul://10.0.0.5:8500"
    assert made.addresses == (authority.address, "10.0.0.6:8443")
    assert {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "data").iterdir()} == dict.fromkeys(
        ("host.key", "host.pem", "roots.pem"), 384
    )
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "data/roots.pem").read_text().count("BEGIN CERTIFICATE") == 2


@pytest.mark.parametrize(
    "uris",
    [(f"spiffe://{DOMAIN}/host/vm-2",), (f"spiffe://{DOMAIN}/svc/vm-1",), ("spiffe://x/host/vm-1",)],
)
async def test_a_certificate_for_another_than_this_host_is_refused(tmp_path, uris):
    root = Root()
    async with standing(tmp_path, root, AUTHORITY, roots={"roots": [root.pem]}, enrol=signer(root, *uris)) as authority:
        with pytest.raises(CertificateRefused):
            await enrol(line(authority.address, root), "vm-1", tmp_path / "data", now)
    assert not (tmp_path / "data/host.pem").exists()


async def test_a_refusal_is_told_with_its_next_step_and_is_final(tmp_path):
    root = Root()
    no = (403, {"code": "E603", "message": "the token is used\x1b[2J", "next_step": "make a new one"})
    async with standing(tmp_path, root, AUTHORITY, roots={"roots": [root.pem]}, enrol=no) as authority:
        with pytest.raises(EnrolmentRefused, match="the token is used") as told:
            await enrol(line(authority.address, root), "vm-1", tmp_path / "data", now)
    assert told.value.next_step == "make a new one" and "\x1b" not in str(told.value)
    assert authority.paths.count("/v1/enrol") == 1


async def test_a_token_goes_to_no_second_authority_after_the_first_may_have_used_it(tmp_path):
    root = Root()
    broken = {"roots": {"roots": []}, "enrol": b"{"}
    async with (
        standing(tmp_path, root, AUTHORITY, **broken) as first,
        standing(tmp_path, root, AUTHORITY, **broken) as second,
    ):
        both = JoinLine((first.address, second.address), root.fingerprint, TOKEN, DOMAIN)
        first.answers["roots"] = second.answers["roots"] = {"roots": [root.pem]}
        with pytest.raises(AuthorityUnavailable):
            await enrol(both, "vm-1", tmp_path / "data", now)
    assert [first.paths.count("/v1/enrol"), second.paths.count("/v1/enrol")] == [1, 0]


async def test_signing_goes_on_at_the_next_authority_and_stays_with_the_one_that_answers(tmp_path):
    root = Root()
    web = f"spiffe://{DOMAIN}/svc/web"
    async with (
        standing(tmp_path, root, AUTHORITY, sign=(503, {"message": "the store is away"})) as ill,
        standing(tmp_path, root, AUTHORITY, sign=signer(root, web)) as well,
    ):
        asked = client(joined(tmp_path, root), "127.0.0.1:1", ill.address, well.address)
        for _ in range(3):
            _, csr = new_key_and_csr()
            assert (await asked.sign(csr, web, timedelta(minutes=5))).startswith(b"-----BEGIN")
        assert (ill.paths, well.paths) == (["/v1/sign"], ["/v1/sign"] * 3)


@pytest.mark.parametrize("answer", [b"{", b"[]", b"x" * (MAX_BODY + 1), {"chain": 7}, b"[" * 100_000])
async def test_an_answer_that_is_none_is_refused(tmp_path, answer):
    root = Root()
    async with standing(tmp_path, root, AUTHORITY, sign=answer) as odd:
        _, csr = new_key_and_csr()
        with pytest.raises((AuthorityUnavailable, CertificateRefused)):
            await client(joined(tmp_path, root), odd.address).sign(csr, f"spiffe://{DOMAIN}/svc/web", timedelta(1))


async def test_the_hosts_certificate_is_renewed_after_half_of_its_life_and_with_the_same_key(tmp_path):
    root = Root()
    renew = signer(root, f"spiffe://{DOMAIN}/host/vm-1")
    directory = joined(tmp_path, root, life=timedelta(seconds=10))  # begun 30 s ago: due
    key, before = (directory / "host.key").read_bytes(), (directory / "host.pem").read_bytes()
    async with standing(tmp_path, root, AUTHORITY, renew=renew, roots={"roots": [root.pem]}) as authority:
        kept = client(directory, authority.address)
        for _ in range(2):
            await kept.tend(TrustBundle(((DOMAIN, (root.pem,)),)))
        assert authority.paths == ["/v1/renew"]
    assert (directory / "host.key").read_bytes() == key
    assert (directory / "host.pem").read_bytes() != before


async def test_pinned_roots_follow_the_bundle_and_the_old_one_goes_when_an_authority_is_reached_without_it(tmp_path):
    old, new = Root("old"), Root("new")
    directory = joined(tmp_path, old, life=timedelta(days=7))

    def pinned() -> str:
        return (directory / "roots.pem").read_text()

    both, only = TrustBundle(((DOMAIN, (old.pem, new.pem)),)), TrustBundle(((DOMAIN, (new.pem,)),))
    async with standing(tmp_path, old, AUTHORITY, roots={"roots": []}) as authority:
        asked = client(directory, authority.address)
        await asked.tend(TrustBundle())
        assert pinned() == old.pem
        await asked.tend(both)
        assert old.pem in pinned() and new.pem in pinned()
        await asked.tend(only)  # its certificate is still of the old root: nobody is locked out
        assert old.pem in pinned()
    async with standing(tmp_path, new, AUTHORITY, roots={"roots": []}) as authority:
        await client(directory, authority.address).tend(only)
    assert pinned() == new.pem


async def test_check_says_what_is_wrong_with_the_clock_the_certificate_and_the_authority(tmp_path):
    root = Root()
    directory = joined(tmp_path, root)
    far = (now() + timedelta(minutes=10)).isoformat()
    for told, words in ((now().isoformat(), ""), (far, "s apart"), ("soon", "does not tell its time")):
        async with standing(tmp_path, root, AUTHORITY, roots={"roots": [], "now": told}) as authority:
            health = await client(directory, authority.address).check()
            assert health.ok == (not words) and words in " ".join(health.problems)
    assert "no authority answers" in " ".join((await client(directory, "127.0.0.1:1").check()).problems)
    (directory / "host.pem").unlink()
    assert "has not joined" in " ".join((await client(directory, "127.0.0.1:1").check()).problems)


async def test_a_nomad_task_asks_with_its_jwt_as_the_file_has_it_now(tmp_path):
    root = Root()
    write_private(tmp_path / "roots.pem", root.pem.encode())
    seen = []
    web = f"spiffe://{DOMAIN}/svc/web"
    async with standing(tmp_path, root, AUTHORITY, sign=signer(root, web)) as authority:
        asked = client(tmp_path, authority.address, jwt_file=str(tmp_path / "jwt"))
        for text in ("first", "second"):
            write_private(tmp_path / "jwt", text.encode())
            _, csr = new_key_and_csr()
            await asked.sign(csr, web, timedelta(minutes=5))
            seen.append(authority.heads[-1])
    assert ["Bearer first" in seen[0], "Bearer second" in seen[1]] == [True, True]
