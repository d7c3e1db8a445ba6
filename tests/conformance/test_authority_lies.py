"""Attack test 43: CAs that lie. Each answers through a real program; the certificate in use stays, and it is said why."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from meshagent.agent.identities import Identities
from meshagent.ca import open_authority
from meshagent.ca.exec import ExecAuthority
from meshagent.model.identity import Svid
from tests.servers.openssl import documented_program, openssl_root
from tests.servers.programs import program

pytestmark = pytest.mark.conformance

DOMAIN = "mesh.internal"
WEB = f"spiffe://{DOMAIN}/svc/web"
TTL = timedelta(minutes=10)
NAME = "URI:$MESHAGENT_SPIFFE_ID"


@dataclass
class Clock:
    ahead: timedelta = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


class Ca:
    """A program that signs with openssl, and is made to lie."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = openssl_root(directory / "ca")
        self.program = documented_program(directory / "sign")
        settings = {
            "command": [str(self.program), str(self.root.parent)],
            "roots_file": str(self.root),
            "timeout": "2s",
        }
        opened = open_authority("exec", settings, trust_domain=DOMAIN, data_dir=directory, clock=Clock())
        assert isinstance(opened, ExecAuthority)
        self.authority = opened

    def change(self, old: str, new: str) -> None:
        documented_program(self.program, (old, new))

    def run(self, text: str) -> None:
        self.program.write_text(f"#!/bin/sh\n{text}\n")


def _wrong_key(ca: Ca) -> None:
    key, csr = ca.directory / "other.key", ca.directory / "other.csr"
    words = f"req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=x -keyout {key} -out {csr}"
    subprocess.run(["openssl", *words.split()], check=True, capture_output=True)
    ca.change('cat > "$work/csr"', f'cat {csr} > "$work/csr"')


def _other_root(ca: Ca) -> None:
    other = openssl_root(ca.directory / "other", "root")
    ca.change('cd "$1"', f"cd {other.parent}")


def _expired(ca: Ca) -> None:
    ca.change("-d '-30 seconds'", "-d '-1 hour'")
    text = ca.program.read_text()
    assert '"+$ttl seconds"' in text
    ca.program.write_text(text.replace('"+$ttl seconds"', '"-1 minute"'))


LIES: dict[str, tuple[Callable[[Ca], None], str]] = {
    "another key": (_wrong_key, "for another key than ours"),
    "a second URI": (lambda ca: ca.change(NAME, f"{NAME},URI:spiffe://{DOMAIN}/svc/orders"), "must have one name"),
    "a DNS name beside": (lambda ca: ca.change(NAME, f"{NAME},DNS:orders"), "must have one name"),
    "a DNS name instead": (lambda ca: ca.change(NAME, "DNS:$MESHAGENT_SPIFFE_ID"), "must be a URI"),
    "another service": (lambda ca: ca.change(NAME, f"URI:spiffe://{DOMAIN}/svc/orders"), "and not for"),
    "no name": (lambda ca: ca.change(f"subjectAltName = critical, {NAME}", ""), "names nobody"),
    "a CA": (lambda ca: ca.change("CA:FALSE", "CA:TRUE"), "is a CA's"),
    "a year": (lambda ca: ca.change("+$ttl seconds", "+1 year"), "later than the"),
    "another root of the same name": (_other_root, "does not lead to a pinned root"),
    "an end in the past": (_expired, "ended at"),
    "a beginning in the future": (lambda ca: ca.change("-30 seconds", "+9 minutes"), "compare the clocks"),
    "no client use": (lambda ca: ca.change("clientAuth, serverAuth", "serverAuth"), "clientAuth and serverAuth"),
    "10 MiB": (lambda ca: ca.run("exec head -c 10485760 /dev/zero"), "more than 65536 bytes"),
    "11 certificates": (
        lambda ca: ca.change('cat "$work/leaf"', 'for n in 1 2 3 4 5 6 7 8 9 10 11; do cat "$work/leaf"; done'),
        "11 certificates",
    ),
    "garbage": (lambda ca: ca.run("head -c 1000 /dev/urandom"), "not a chain"),
    "a cut chain": (lambda ca: ca.change('cat "$work/leaf"', 'head -c 300 "$work/leaf"'), "not a chain"),
    "nothing": (lambda ca: ca.run("true"), "wrote nothing"),
    "slowness": (lambda ca: ca.run("exec sleep 60"), "no answer within 2s"),
}


@dataclass
class Held:
    """What an agent holds, in the middle of a certificate's life."""

    ca: Ca
    clock: Clock
    identities: Identities
    svid: Svid

    async def renew(self) -> tuple[list[structlog.typing.EventDict], Svid]:
        """Let the renewal come due, as the agent does. Returns what is logged, and the SVID in use after it."""
        self.clock.ahead = timedelta(minutes=7)
        with capture_logs() as logged:
            await self.identities._step()
        return logged, self.identities.svids["web"]


@pytest.fixture
async def held(tmp_path: Path) -> Held:
    ca, clock = Ca(tmp_path), Clock()
    (tmp_path / "identities").mkdir(mode=0o700)
    identities = Identities(lambda _: ca.authority, tmp_path / "identities", TTL, clock, lambda _: None)
    identities.want({"web"}, DOMAIN, await ca.authority.bundle())
    await identities._step()
    return Held(ca, clock, identities, identities.svids["web"])


async def test_the_program_that_does_not_lie_is_believed(held: Held) -> None:
    held.ca.change("+$ttl seconds", "+420 seconds +$ttl seconds")  # the agent's clock is 7 minutes ahead
    logged, svid = await held.renew()
    assert [each["event"] for each in logged] == ["svid_renewed"]
    assert svid.serial != held.svid.serial and not held.identities.problems


@pytest.mark.parametrize("lie", LIES)
async def test_attack_43_a_lying_ca_is_refused_with_the_reason_and_the_old_certificate_stays(
    held: Held, lie: str
) -> None:
    tell, words = LIES[lie]
    tell(held.ca)
    kept = (held.ca.directory / "identities/web.pem").read_bytes()
    logged, svid = await held.renew()
    assert [each["event"] for each in logged] == ["svid_not_renewed", "svid_overdue"]
    assert words in logged[0]["problem"] and words in held.identities.problems["web"]
    assert svid is held.svid
    assert (held.ca.directory / "identities/web.pem").read_bytes() == kept
    assert "PRIVATE" not in json.dumps(logged, default=str)


async def test_attack_43_cfssl_loses_uris_and_none_of_what_it_makes_is_taken(held: Held) -> None:
    """cfssl 1.2.0 of Debian makes a DNS name of a URI, or drops it: a real CA that lies without meaning to."""
    both = {"usages": ["digital signature", "server auth", "client auth"], "expiry": "10m"}
    profile = held.ca.directory / "cfssl.json"
    profile.write_text(json.dumps({"signing": {"default": both}}))
    directory, key = held.ca.root.parent, held.ca.directory / "ec.key"
    subprocess.run(["openssl", "ec", "-in", directory / "root.key", "-out", key], check=True, capture_output=True)
    words = f"{program('cfssl')} sign -ca {held.ca.root} -ca-key {key} -config {profile}"
    found = []
    for names in ("-hostname $MESHAGENT_SPIFFE_ID", ""):
        held.ca.run(f"""{words} {names} - | sed -n 's/.*"cert":"\\([^"]*\\)".*/\\1/p' | sed 's/\\\\n/\\n/g'""")
        held.identities._failures.clear()
        logged, svid = await held.renew()
        found.append(logged[0]["problem"])
        assert svid is held.svid
    assert "must be a URI and is DNSName" in found[0]
    assert "names nobody" in found[1]
