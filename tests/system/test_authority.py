"""The signing authority through outages, beside others, with its root elsewhere, and from start to end."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from meshagent.authority.founding import found_authority
from meshagent.ca.authority_calls import Calls, known_by
from meshagent.ca.keys import new_key_and_csr
from meshagent.ca.x509 import accept, accept_host
from meshagent.errors import AuthorityUnavailable, CertificateRefused
from meshagent.model.identity import TrustBundle
from meshagent.model.mesh import Mesh
from meshagent.private import write_private
from meshagent.state.enrolment import SignerRecord
from meshagent.state.foundation import lay_foundation
from meshagent.state.records import BundleRecord, decode, encode
from meshagent.state.signing import Signing, Trust, new_signer, public_text
from meshagent.store.base import Delete, Put
from tests.servers import either, openbao
from tests.servers.openssl import openssl_root
from tests.system.authorities import DOMAIN, KEYS, Daemon, Host, World, asked, author, csr, leaf_of, now, svc, world
from tests.system.test_attacks_authority import enrolled

pytestmark = pytest.mark.system
PASSPHRASE = "correct horse battery staple"


async def command(*words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command, without a terminal."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "meshagent", *words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode or 0, out.decode(), errors.decode()


async def second(made: World, name: str = "a2") -> Daemon:
    """Another authority, which has no root and waits."""
    daemon = made.daemon(name)
    await daemon.start(serving=False)
    await daemon.until("authority_published")
    return daemon


async def sign_second(made: World, daemon: Daemon) -> None:
    words = ("ca", "root", "sign", daemon.name, "--authority", str(made.daemons[0].file))
    code, _, errors = await command(*words)
    assert code == 2, "without a terminal nobody can say that it is the right key"
    found = re.search(r"--fingerprint (sha256:[0-9a-f]{64})", errors)
    assert found
    told = (await daemon.until("intermediate_not_renewed"))["problem"]
    assert found[1] in told, "the authority tells the same fingerprint"
    code, _, errors = await command(*words, "--fingerprint", f"sha256:{'0' * 64}")
    assert code == 2 and "not with" in errors
    assert not [line for line in daemon.log() if line["event"] == "authority_started"]
    code, _, errors = await command(*words, "--fingerprint", found[1])
    assert code == 0, errors
    await daemon.until("authority_started")


def usable(made: World, chain: str, key: bytes) -> None:
    """What an agent checks of an answer."""
    bundle = TrustBundle(((DOMAIN, (made.root,)),))
    accept(chain.encode(), key, svc("web"), bundle, DOMAIN, now(), timedelta(hours=1))


async def certified(made: World, host: Host, daemon: Daemon) -> str:
    key, request = new_key_and_csr()
    answer = await host.calls(daemon.address).post("/v1/sign", asked("web", request.decode()))
    usable(made, answer["chain"], key)
    return str(answer["chain"])


async def test_two_authorities_sign_at_once_with_intermediates_of_their_own():
    async with either.store_url("consul") as url, world(url) as made:
        first = await made.found()
        await first.start()
        other = await second(made)
        await sign_second(made, other)
        host = await made.join("vm-1", "web")
        chains = await asyncio.gather(*(certified(made, host, each) for each in (first, other) * 5))
        issuers = {leaf_of(chain).issuer.rfc4514_string() for chain in chains}
        assert issuers == {"CN=meshagent authority a1", "CN=meshagent authority a2"}
        assert sorted((await made.stranger().get("/v1/roots"))["authorities"]) == sorted([first.address, other.address])
        token = await made.token("vm-2")
        both = [enrolled(made, token, "vm-2", each.address) for each in (first, other) * 3]
        outcomes = await asyncio.gather(*both, return_exceptions=True)
        assert len([each for each in outcomes if isinstance(each, dict)]) == 1, "one token, one host, whoever is asked"
        await first.stop()
        assert await certified(made, host, other), "one is enough"
        assert await enrolled(made, await made.token("vm-3"), "vm-3", other.address)
        await first.start(serving=False)
        await first.until("authority_started", 2)
        assert await certified(made, host, first)


async def test_an_authority_signs_known_hosts_while_the_store_is_away_and_nobody_else():
    async with either.servers("consul") as servers, world(servers.url) as made:
        first = await made.found()
        await first.start()
        other = await second(made)
        await sign_second(made, other)
        known = await made.join("vm-1", "web")
        await certified(made, known, other)
        await asyncio.sleep(0.5)  # for the ledger on disk
        await other.stop()
        late = await made.join("vm-2", "web")
        token = await made.token("vm-3")
        await servers.kill()
        await certified(made, late, first)
        with pytest.raises(AuthorityUnavailable):
            await enrolled(made, token, "vm-3")
        await other.start(serving=False)
        await other.until("authority_started", 2)
        assert await certified(made, known, other), "started without a store, from what it read last"
        with pytest.raises(CertificateRefused, match="no grant"):
            await late.calls(other.address).post("/v1/sign", asked("web"))
        with pytest.raises(AuthorityUnavailable):
            await made.stranger(other.address).get("/v1/health")
        await servers.start()
        await other.until("store_followed", 2)
        assert await certified(made, late, other)
        assert (await enrolled(made, token, "vm-3"))["services"] == ["web"], "its token was not used up"


async def test_a_store_that_was_emptied_takes_no_grant_away():
    async with world() as made:
        daemon = await made.found()
        await daemon.start()
        host = await made.join("vm-1", "web")
        async with made.store() as store:
            held = (await store.read(KEYS.root)).entries
            await store.commit([Delete(key) for key in held])
        await asyncio.sleep(0.5)
        assert await certified(made, host, daemon)
        assert (await made.stranger().get("/v1/roots"))["roots"] == [made.root]


async def test_the_root_is_moved_off_the_machine_and_back_and_the_authority_signs_on():
    async with world() as made:
        daemon = await made.found()
        await daemon.start()
        host, root = await made.join("vm-1", "web"), made.root
        secret, file = made.folder / "passphrase", made.folder / "root-on-a-stick.pem"
        write_private(secret, f"{PASSPHRASE}\n".encode())
        at = ("--authority", str(daemon.file), "--passphrase-file", str(secret))
        code, out, errors = await command("ca", "root", "export", str(file), "--remove", *at)
        assert code == 0, errors
        text = file.read_text()
        assert "BEGIN ENCRYPTED PRIVATE KEY" in text and root.strip() in text
        assert file.stat().st_mode & 0o777 == 0o600
        assert sorted(each.name for each in (daemon.data / "root").iterdir()) == ["lock"]
        await daemon.stop()
        await daemon.start(serving=False)
        await daemon.until("authority_started", 2)
        answer = await host.calls(daemon.address).post("/v1/sign", asked("web"))
        assert answer["chain"]
        code, _, errors = await command("ca", "root", "export", str(made.folder / "again.pem"), *at)
        assert code == 1 and "holds no root" in errors
        write_private(secret, b"another passphrase\n")
        code, _, errors = await command("ca", "root", "import", str(file), *at)
        assert code == 2 and "passphrase" in errors
        write_private(secret, f"{PASSPHRASE}\n".encode())
        code, _, errors = await command("ca", "root", "import", str(file), *at)
        assert code == 0, errors
        assert made.root == root
        code, _, errors = await command("ca", "root", "export", str(file), *at)
        assert code == 2 and "is there already" in errors


async def test_another_authority_of_the_same_name_does_not_push_the_first_aside():
    async with world() as made:
        first = await made.found()
        await first.start()
        other = Daemon(made.folder / "elsewhere", "a1", made.url)
        made.daemons.append(other)
        await other.start(serving=False)
        problem = await other.until("authority_not_published")
        assert "goes by the name a1" in problem["problem"]
        async with made.store() as store:
            entry = (await store.read(KEYS.signer("a1"))).entries[KEYS.signer("a1")]
        assert decode(SignerRecord, entry.value).address == first.address


async def test_what_is_shown_in_the_store_comes_back_when_it_was_lost():
    async with world() as made:
        daemon = await made.found()
        await daemon.start()
        async with made.store() as store:
            await store.commit([Delete(KEYS.signer("a1"))])
            await daemon.until("authority_published", 2)
            assert KEYS.signer("a1") in (await store.read(KEYS.signers)).entries


async def test_sighup_reads_limits_and_says_what_needs_a_restart():
    async with world() as made:
        daemon = await made.found(max_ttl="30m")
        await daemon.start()
        host = await made.join("vm-1", "web")
        daemon.settings |= {"max_ttl": "5m", "listen": "127.0.0.1:1"}
        daemon.write()
        assert daemon.process
        daemon.process.send_signal(signal.SIGHUP)
        assert (await daemon.until("settings_need_restart"))["keys"] == ["listen"]
        await daemon.until("settings_read")
        leaf = leaf_of((await host.calls(daemon.address).post("/v1/sign", asked("web")))["chain"])
        assert leaf.not_valid_after_utc <= now() + timedelta(minutes=5)
        daemon.file.write_text("max_ttl: 48h\n")
        daemon.process.send_signal(signal.SIGHUP)
        await daemon.until("settings_not_read")
        assert await certified(made, host, daemon)
        assert await daemon.stop() == 0
        assert daemon.log()[-1]["event"] == "authority_stopped"


async def test_one_data_directory_is_one_authority_and_its_files_are_closed_to_others():
    async with world() as made:
        daemon = await made.found()
        await daemon.start()
        await made.join("vm-1", "web")
        code, _, errors = await command("authority", "--config", str(daemon.file), "--listen", "127.0.0.1:0")
        assert code == 1 and "another authority runs" in errors
        for path in (daemon.data, *daemon.data.rglob("*")):
            assert path.stat().st_mode & 0o077 == 0, path
        arguments = Path(f"/proc/{daemon.process.pid}/cmdline").read_text() if daemon.process else ""
        assert "authority" in arguments and "PRIVATE" not in arguments


async def test_an_intermediate_from_the_pki_engine_of_vault():
    async with world() as made:
        with openbao.server() as vault:
            mount = await asyncio.to_thread(vault.pki, DOMAIN, ())
            root = vault.call("GET", f"{mount}-root/cert/ca", token="")["data"]["certificate"]
            write_private(made.folder / "vault.token", openbao.ROOT_TOKEN.encode())
            issuer = {"provider": "vault", "address": vault.address, "mount": mount}
            daemon = made.daemon("a1", issuer=issuer | {"token_file": str(made.folder / "vault.token")})
            async with made.store() as store:
                bundle = TrustBundle(((DOMAIN, (root,)),))
                await lay_foundation(store, KEYS, Mesh(trust_domain=DOMAIN), bundle, author())
            await daemon.start()
        calls = Calls((daemon.address,), lambda: known_by(root, DOMAIN))
        key, request = new_key_and_csr()
        body = {"token": await made.token("vm-1"), "host": "vm-1", "csr": request.decode()}
        answer = await calls.post("/v1/enrol", body)
        accept_host(answer["chain"].encode(), key, "vm-1", bundle, DOMAIN, now())
        assert answer["chain"].count("BEGIN CERTIFICATE") == 3, "ours, Vault's, and the host's below both"


async def test_where_policy_is_signed_an_authority_believes_no_bundle_but_a_signed_one():
    async with world() as made:
        signer, _ = new_signer()
        signing = Signing(signer, Trust.of(signer.public))
        daemon = made.daemon("a1", policy_public_keys=[public_text(signer.public)])
        founded = found_authority(daemon.config, DOMAIN, now())
        bundle = TrustBundle(((DOMAIN, (founded.root_pem,)),))
        async with made.store() as store:
            await lay_foundation(store, KEYS, Mesh(trust_domain=DOMAIN), bundle, author(), signing)
            await daemon.start()
            host = await made.join("vm-1", "web")
            entry = (await store.read(KEYS.bundle)).entries[KEYS.bundle]
            forged = decode(BundleRecord, entry.value).model_copy(update={"roots": {DOMAIN: ["evil"]}})
            await store.commit([Put(KEYS.bundle, encode(forged))])
        assert (await daemon.until("record_unusable"))["key"] == KEYS.bundle
        assert (await made.stranger().get("/v1/roots"))["roots"] == [made.root]
        assert await certified(made, host, daemon)


async def test_one_spoilt_root_in_the_bundle_stops_no_authority():
    async with world() as made:
        daemon = await made.found()
        await daemon.start()
        host = await made.join("vm-1", "web")
        async with made.store() as store:
            await store.commit([Put(KEYS.bundle, encode(BundleRecord(roots={DOMAIN: ["spoilt"]})))])
        await daemon.until("record_unusable")
        assert await certified(made, host, daemon)


async def test_whom_the_mesh_believes_is_told():
    async with world() as made:
        daemon = await made.found()
        await daemon.start()
        other = await second(made)
        code, out, errors = await command("ca", "status", "--store", made.url, "--output", "json")
        assert code == 0, errors
        told = json.loads(out)
        assert [each["state"] for each in told["roots"]] == ["trusted"]
        assert told["roots"][0]["fingerprint"] == made.line("x").fingerprint
        assert [(each["name"], bool(each["ends_at"])) for each in told["authorities"]] == [("a1", True), ("a2", False)]
        code, out, _ = await command("ca", "roots", "--store", made.url)
        assert (code, out) == (0, made.root)
        assert other.address in (await command("ca", "status", "--store", made.url))[1]


async def test_an_intermediate_from_a_program_that_holds_the_root_elsewhere():
    async with world() as made:
        root = openssl_root(made.folder / "elsewhere")
        program = made.folder / "elsewhere/sign"
        extensions = made.folder / "elsewhere/ca.ext"
        extensions.write_text("basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign\n")
        words = f"-CA {root} -CAkey {root.parent}/root.key -CAcreateserial -days 20 -extfile {extensions}"
        program.touch(0o700)
        program.write_text(f"#!/bin/sh\nopenssl x509 -req -in /dev/stdin {words} 2>/dev/null\n")
        for folder in (made.folder, root.parent):
            folder.chmod(0o700)
        daemon = made.daemon("a1", issuer={"provider": "exec", "command": [str(program)]})
        bundle = TrustBundle(((DOMAIN, (root.read_text(),)),))
        async with made.store() as store:
            await lay_foundation(store, KEYS, Mesh(trust_domain=DOMAIN), bundle, author())
        await daemon.start()
        calls = Calls((daemon.address,), lambda: known_by(root.read_text(), DOMAIN))
        answer = await calls.post("/v1/enrol", {"token": await made.token("vm-1"), "host": "vm-1", "csr": csr()})
        leaf = leaf_of(answer["chain"])
        assert leaf.issuer.rfc4514_string() == "CN=meshagent authority a1"
        assert answer["chain"].count("BEGIN CERTIFICATE") == 2
