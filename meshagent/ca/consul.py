"""Consul Connect's CA, by the Consul agent of this host, which makes the keys and renews the certificates itself.

Measured on Consul 1.8.7: a leaf lives 72 h unless `LeafCertTTL` says otherwise (an hour at least); it has one name, a URI;
after a change of root a blocking query answers with a new leaf within 30 s, and the chain brings the new root, signed by
the old one, along. Asking for roots needs no token, asking for a leaf needs `service = "write"` for that service.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from cryptography.hazmat.primitives import serialization
from pydantic import Field

from meshagent.ca.base import AuthorityHealth, Issued
from meshagent.ca.roots import bundle_of
from meshagent.ca.settings import read_settings
from meshagent.ca.x509 import LONGER_THAN_ASKED, UNREADABLE
from meshagent.errors import (
    AuthorityUnavailable,
    CertificateRefused,
    DataDirUnusable,
    MeshError,
    NotFound,
    StoreDenied,
    StoreUnavailable,
    UnsafeFile,
    UsageProblem,
)
from meshagent.model.identity import TrustBundle
from meshagent.model.names import Model, check_trust_domain, parse_spiffe_id, spiffe_id
from meshagent.private import read_private
from meshagent.wire.consul import Answer, Consul, open_consul
from meshagent.wire.consul_url import parse_url

_OK = 200
_LEAF, _ROOTS = "/v1/agent/connect/ca/leaf/", "/v1/agent/connect/ca/roots"
_DATACENTER = r"^[a-z0-9_-]{1,63}$"
_OFF = "Connect must be enabled"


class ConsulSettings(Model):
    """The settings of the provider consul."""

    address: str = Field(
        description="The Consul agent of this host, as consul://host:port[?tls=true]. Default: the store's, if that is Consul."
    )
    token_file: Path | None = Field(default=None, description="File (0600) with a token that may write the services.")
    ca_file: Path | None = Field(
        default=None, description="Roots (PEM) of that agent's own TLS. Default: the system's."
    )
    cert_file: Path | None = Field(default=None, description="Certificate (PEM) that the agent is shown.")
    key_file: Path | None = Field(default=None, description="File (0600) with the key of that certificate.")
    datacenter: str = Field(
        default="",
        pattern=rf"{_DATACENTER}|^$",
        description="Consul's datacenter, as SPIFFE IDs name it. Default: asked.",
    )

    @property
    def tls(self) -> bool:
        """Whether a file says that the agent is to be reached by TLS."""
        return any((self.ca_file, self.cert_file, self.key_file))

    def token(self) -> str:
        """The token as the file has it now, "" for none. Raises StoreDenied."""
        if self.token_file is None:
            return ""
        try:
            return read_private(self.token_file).decode().strip()
        except (UnicodeDecodeError, DataDirUnusable, NotFound, UnsafeFile) as error:
            raise StoreDenied(f"ca.token_file: {error}", next_step=f"write the token into {self.token_file}") from None


class ConsulAuthority:
    """Hands out what the Consul agent makes. Belongs to the event loop that it is first used on."""

    def __init__(self, settings: ConsulSettings, clock: Callable[[], datetime]) -> None:
        self._settings = settings
        self._clock = clock
        self._consul: Consul | None = None
        self._form = ""
        self._given: dict[str, str] = {}  # the serial that was last handed out, by service
        self._followers: dict[str, asyncio.Task[None]] = {}
        self._news: asyncio.Queue[str] = asyncio.Queue()

    async def named(self, service: str) -> str:
        """See Naming.named: `spiffe://<uuid>.consul/ns/default/dc/<datacenter>/svc/<service>`."""
        trust_domain = _trust_domain(await self._roots())
        return spiffe_id(trust_domain, service, await self._id_form())

    async def issue(self, spiffe_id: str, ttl: timedelta) -> Issued:
        """See KeyMaker.issue. Consul decides how long a certificate lives; one that lives longer than `ttl` is refused."""
        _, service = parse_spiffe_id(spiffe_id) or ("", "")
        if not service or spiffe_id != await self.named(service):
            raise CertificateRefused(
                f"{spiffe_id[:300]!r} is not a service's SPIFFE ID of Consul's CA",
                next_step="see docs/consul-connect.md",
            )
        answer = await self._asked(_LEAF + quote(service))
        leaf = _object(answer)
        self._check_life(_text(leaf, "ValidBefore"), ttl)
        issued = Issued(_pkcs8(_text(leaf, "PrivateKeyPEM")), _text(leaf, "CertPEM").encode())
        self._given[service] = _text(leaf, "SerialNumber")
        self._follow(service, answer.index)
        return issued

    async def changed(self) -> frozenset[str]:
        """See Announcing.changed: Consul's blocking queries tell."""
        service = await self._news.get()
        return frozenset({await self.named(service)})

    async def bundle(self) -> TrustBundle:
        """All roots that Consul names: those that sign no more are believed until an operator takes them out."""
        told = await self._roots()
        trust_domain, form = _trust_domain(told), await self._id_form()
        roots = told.get("Roots")
        pems = [_text(root, "RootCert") for root in roots if isinstance(root, dict)] if isinstance(roots, list) else []
        found = bundle_of("\n".join(pems).encode(), trust_domain, "Consul's list of roots")
        return TrustBundle(found.roots, forms=((trust_domain, form),))

    async def check(self) -> AuthorityHealth:
        """Not ok when the agent is away, when Connect is off, or when it refused a service lately."""
        try:
            await self.bundle()
        except MeshError as error:
            return AuthorityHealth(ok=False, problems=(error.advice,))
        return AuthorityHealth(ok=True)

    async def close(self) -> None:
        """Let go of connections and end the blocking queries."""
        followers, self._followers = self._followers, {}
        for task in followers.values():
            task.cancel()
        await asyncio.gather(*followers.values(), return_exceptions=True)
        if self._consul:
            await self._consul.close()

    def _check_life(self, ends: str, ttl: timedelta) -> None:
        try:
            left = datetime.fromisoformat(ends) - self._clock()
        except (ValueError, TypeError):
            raise CertificateRefused(f"Consul says of a certificate that it ends at {ends[:40]!r}") from None
        if left > ttl + LONGER_THAN_ASKED:
            hours = f"{-(-left // timedelta(hours=1))}h"
            raise CertificateRefused(
                f"Consul's certificates live for {hours}, longer than ca.ttl",
                next_step=f"set ca.ttl to {hours}, or a shorter LeafCertTTL in Consul (an hour is its shortest)",
            )

    def _follow(self, service: str, index: int) -> None:
        held = self._followers.get(service)
        if held is None or held.done():
            self._followers[service] = asyncio.create_task(self._announce(service, index))

    async def _announce(self, service: str, index: int) -> None:
        """Say each time that Consul has another certificate than the one handed out. Ends when it refuses."""
        try:
            async for answer in self._opened().follow(_LEAF + quote(service), index=index):
                if _text(_object(answer), "SerialNumber") != self._given.get(service):
                    self._news.put_nowait(service)
        except MeshError:  # who asks for the certificate the next time meets the same, says so and follows again
            return

    async def _roots(self) -> Mapping[str, Any]:
        return _object(await self._asked(_ROOTS))

    async def _id_form(self) -> str:
        """What stands in SPIFFE IDs between trust domain and service; asked once."""
        if not self._form:
            self._form = f"ns/default/dc/{self._settings.datacenter or await self._datacenter()}/svc"
        return self._form

    async def _datacenter(self) -> str:
        """The agent's own datacenter. A token that may not see the agent can still see whether there is only one."""
        try:
            told = _object(await self._opened().get("/v1/agent/self"))
            return _text(told.get("Config"), "Datacenter")
        except StoreUnavailable as error:
            raise _unavailable(error) from None
        except StoreDenied:
            pass
        known = (await self._asked("/v1/catalog/datacenters")).json()
        if isinstance(known, list) and len(known) == 1:
            return str(known[0])
        raise AuthorityUnavailable(
            "Consul does not say to which datacenter its agent belongs",
            next_step='set ca.datacenter, or give the token: agent_prefix "" { policy = "read" }',
        )

    async def _asked(self, path: str) -> Answer:
        try:
            answer = await self._opened().get(path)
        except StoreUnavailable as error:
            raise _unavailable(error) from None
        except StoreDenied as error:
            right = f'service "{path.rpartition("/")[2]}" {{ policy = "write" }}'
            raise CertificateRefused(str(error), next_step=f"give the token of ca.token_file: {right}") from None
        if answer.status != _OK:
            raise AuthorityUnavailable(f"Consul answers {answer.status} to {path}", next_step="see Consul's log")
        return answer

    def _opened(self) -> Consul:
        if self._consul is None:
            self._consul = open_consul(self._settings.address, self._settings)
        return self._consul


def open_authority(
    settings: Mapping[str, object], *, trust_domain: str, data_dir: Path, clock: Callable[[], datetime]
) -> ConsulAuthority:
    """Opens it from the agent's configuration; see ConsulSettings. Raises UsageProblem.

    Consul has a trust domain of its own, whatever the mesh's is.
    """
    del trust_domain, data_dir
    return ConsulAuthority(_checked(settings), clock)


def _checked(settings: Mapping[str, object]) -> ConsulSettings:
    read = read_settings("consul", ConsulSettings, settings)
    address = parse_url(read.address, tls=read.tls)
    if not address.tls and not all(_is_loopback(urlsplit(url).hostname or "") for url in address.urls):
        raise UsageProblem(
            f"ca.address {read.address} is another machine without TLS: whoever listens gets the private keys",
            next_step="name the Consul agent of this host (consul://127.0.0.1:8500), or use ?tls=true",
        )
    return read


def open_client(settings: Mapping[str, object]) -> Consul:
    """A client of the Consul agent that the settings name, for what else it knows. Raises UsageProblem, StoreDenied."""
    read = _checked(settings)
    return open_consul(read.address, read)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _unavailable(error: StoreUnavailable) -> AuthorityUnavailable:
    step = "set connect { enabled = true } on Consul's servers and agents" if _OFF in str(error) else error.next_step
    return AuthorityUnavailable(str(error), next_step=step)


def _trust_domain(told: Mapping[str, Any]) -> str:
    try:
        return check_trust_domain(_text(told, "TrustDomain"))
    except ValueError as error:
        raise AuthorityUnavailable(f"Consul's trust domain {error}", next_step="see Consul's log") from None


def _object(answer: Answer) -> Mapping[str, Any]:
    told = answer.json()
    if not isinstance(told, dict):
        raise AuthorityUnavailable("Consul's answer is not an object", next_step="see what answers at ca.address")
    return told


def _text(told: object, name: str) -> str:
    found = told.get(name) if isinstance(told, dict) else None
    if not isinstance(found, str):
        raise AuthorityUnavailable(f"Consul's answer has no {name}", next_step="see what answers at ca.address")
    return found


def _pkcs8(pem: str) -> bytes:
    try:
        key = serialization.load_pem_private_key(pem.encode(), password=None)
    except (*UNREADABLE, TypeError):  # the parser's own words are left out: they are about a secret
        raise CertificateRefused("Consul's answer holds no key that can be read") from None
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
