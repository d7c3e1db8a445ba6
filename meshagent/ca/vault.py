"""The PKI engine of Vault or OpenBao. It signs CSRs; the key stays here.

Measured on OpenBao 2.7.2: a role signs a CSR without any name, ignores the common name and cuts the TTL without a word;
a role with `use_csr_sans: false` takes the names from `uri_sans`, one with `true` from the CSR, so both are sent. What
comes back is checked like every CA's answer.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import quote, urlsplit

from pydantic import Field, model_validator

from meshagent.ca.base import AuthorityHealth
from meshagent.ca.issuance import check_identity, public_key_of
from meshagent.ca.roots import bundle_of, read_trusted
from meshagent.ca.settings import read_settings
from meshagent.ca.vault_api import FORBIDDEN, Reply, Vault
from meshagent.ca.vault_login import AppRole, JwtLogin, Login
from meshagent.errors import AuthorityUnavailable, CertificateRefused, MeshError
from meshagent.model.identity import TrustBundle
from meshagent.model.names import Duration, Model, parse_spiffe_id

_MOST_ISSUERS = 20


class VaultSettings(Model):
    """The settings of the provider vault."""

    address: str = Field(description="Where Vault is: https://host:port.")
    insecure: bool = Field(default=False, description="Allow http to another machine. Whoever listens gets the token.")
    mount: str = Field(
        default="pki", pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]{0,127}$", description="Where the PKI engine is mounted."
    )
    role: str = Field(
        pattern=r"^[A-Za-z0-9_.{}-]{1,128}$", description="The role that signs; {service} stands for the service."
    )
    namespace: str = Field(default="", pattern=r"^[\x21-\x7e]*$", description="Vault's namespace.")
    ca_file: Path | None = Field(default=None, description="Roots (PEM) of Vault's own TLS. Default: the system's.")
    roots_file: Path | None = Field(
        default=None, description="The mesh's roots (PEM), where the engine does not hold its own root."
    )
    token_file: Path | None = Field(default=None, description="File (0600) with a token.")
    approle: AppRole | None = Field(default=None, description="Login by AppRole.")
    jwt: JwtLogin | None = Field(default=None, description="Login by a JWT.")
    timeout: Duration = Field(default=timedelta(seconds=10), description="How long a call may take.")

    @model_validator(mode="after")
    def _check(self) -> VaultSettings:
        if len([each for each in (self.token_file, self.approle, self.jwt) if each is not None]) != 1:
            raise ValueError("must have one of token_file, approle and jwt")
        if not timedelta(0) < self.timeout <= timedelta(minutes=5):
            raise ValueError("timeout must be more than 0 and at most 5m")
        if "{" in (rest := self.role.replace("{service}", "")) or "}" in rest:
            raise ValueError("role must have no other braces than {service}")
        _check_address(self.address, insecure=self.insecure)
        return self

    @property
    def means(self) -> Path | AppRole | JwtLogin:
        """How to log in."""
        return self.token_file or self.approle or self.jwt or Path()


class VaultAuthority:
    """Signs with a role of Vault's."""

    def __init__(self, settings: VaultSettings, trust_domain: str) -> None:
        self._settings = settings
        self._trust_domain = trust_domain
        self._vault = Vault(settings.address, settings.namespace, settings.ca_file, settings.timeout)
        self._login: Login | None = None

    async def sign(self, csr_pem: bytes, spiffe_id: str, ttl: timedelta) -> bytes:
        """See Signer.sign."""
        public_key_of(csr_pem)
        check_identity(spiffe_id, self._trust_domain)
        _, service = parse_spiffe_id(spiffe_id) or ("", "")
        path = f"{self._settings.mount}/sign/{self._settings.role.replace('{service}', service)}"
        asked = {"csr": csr_pem.decode("ascii"), "uri_sans": spiffe_id, "ttl": f"{max(1, int(ttl.total_seconds()))}s"}
        reply = await self._call_as_us("POST", path, {**asked, "exclude_cn_from_sans": True, "format": "pem"})
        return _chain(reply)

    async def sign_intermediate(self, csr_pem: str, ttl: timedelta) -> bytes:
        """A CA's certificate with those above it (PEM, its own first), for the names of the CSR; it may sign no further CAs."""
        path = f"{self._settings.mount}/root/sign-intermediate"
        asked = {"csr": csr_pem, "use_csr_values": True, "ttl": f"{int(ttl.total_seconds())}s", "max_path_length": 0}
        return _chain(await self._call_as_us("POST", path, {**asked, "format": "pem"}))

    async def bundle(self) -> TrustBundle:
        """The roots of `roots_file`, else those that the engine's issuers chain to; neither needs a token."""
        if path := self._settings.roots_file:
            return bundle_of(read_trusted(path, "roots"), self._trust_domain, str(path))
        mount = self._settings.mount
        listed = (await self._asked("LIST", f"{mount}/issuers")).part("data").get("keys")
        names = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
        replies = [
            await self._asked("GET", f"{mount}/issuer/{quote(name, safe='')}/json")
            for name in sorted(names)[:_MOST_ISSUERS]
        ]
        texts = (text for reply in replies for text in _texts(reply.part("data").get("ca_chain")))
        return bundle_of("\n".join(texts).encode(), self._trust_domain, f"Vault's {mount}")

    async def check(self) -> AuthorityHealth:
        """Not ok when Vault is away or sealed, the token is not known, or the engine has no root."""
        problems = []
        try:
            token = await self._who().token()
            if not (await self._vault.call("GET", "auth/token/lookup-self", token=token)).ok:
                problems.append(
                    "Vault does not know the token, or it may not look itself up: give it the policy default"
                )
            await self.bundle()
        except MeshError as error:
            problems.append(error.advice)
        return AuthorityHealth(ok=not problems, problems=tuple(problems))

    async def close(self) -> None:
        """Close connections and let the token end."""
        if self._login:
            await self._login.close()
        await self._vault.close()

    def _who(self) -> Login:
        """Made when it is first needed: it belongs to the event loop."""
        self._login = self._login or Login(self._vault, self._settings.means)
        return self._login

    async def _call_as_us(self, method: str, path: str, body: Mapping[str, object]) -> Reply:
        """A call with our token; with another one, where there is one, when the first is refused."""
        token = await self._who().token()
        reply = await self._vault.call(method, path, body, token)
        if reply.status == FORBIDDEN and (other := await self._who().token(instead_of=token)) != token:
            token, reply = other, await self._vault.call(method, path, body, other)
        if reply.ok:
            return reply
        right = f"give the token's policy `update` on {path}, and check that the token has not ended"
        role = f"check ca.mount, and the role: vault read {path.replace('/sign/', '/roles/')}"
        raise CertificateRefused(
            f"Vault refuses {path}: {reply.said(token)}", next_step=right if reply.status == FORBIDDEN else role
        )

    async def _asked(self, method: str, path: str) -> Reply:
        reply = await self._vault.call(method, path)
        if not reply.ok:
            raise AuthorityUnavailable(
                f"Vault has no issuers at {path}: {reply.said()}", next_step="check ca.mount, or set ca.roots_file"
            )
        return reply


def open_authority(
    settings: Mapping[str, object], *, trust_domain: str, data_dir: Path, clock: Callable[[], datetime]
) -> VaultAuthority:
    """Opens it from the agent's configuration; see VaultSettings. Raises UsageProblem."""
    del data_dir, clock  # it keeps nothing, and Vault has a clock of its own
    return VaultAuthority(read_settings("vault", VaultSettings, settings), trust_domain)


def _check_address(address: str, *, insecure: bool) -> None:
    parts = urlsplit(address)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.username or parts.path.strip("/"):
        raise ValueError("address must be https://host:port")
    if parts.scheme == "http" and not insecure and not _is_loopback(parts.hostname):
        raise ValueError(
            "address must be https: by http everybody on the way reads the token (insecure: true allows it)"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _chain(reply: Reply) -> bytes:
    data = reply.part("data")
    texts = _texts([data.get("certificate"), *_texts(data.get("ca_chain")), data.get("issuing_ca")])
    if not texts or data.get("certificate") != texts[0]:
        raise CertificateRefused("Vault's answer holds no certificate", next_step="check what answers at ca.address")
    return ("\n".join(dict.fromkeys(text.strip() for text in texts)) + "\n").encode()


def _texts(value: object) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []
