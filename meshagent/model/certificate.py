"""Certificates that gateways show to outside: from files on the host, or ordered from a CA that speaks ACME."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from meshagent.model.names import Model

MAX_CERTIFICATES, MAX_NAMES = 64, 100
_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})+")
_LONGEST_NAME = 253


def _check_file(text: str) -> str:
    if "\x00" in text or "/../" in f"{text}/" or "//" in text:
        raise ValueError("must be a plain absolute path")
    return text


def _check_name(text: str) -> str:
    if not (_NAME.fullmatch(text) and len(text) <= _LONGEST_NAME) or text.rpartition(".")[2].isdigit():
        raise ValueError("must be a lower-case name such as shop.example.org (a CA proves no other by http-01)")
    return text


File = Annotated[str, Field(pattern=r"^/.{1,254}$"), AfterValidator(_check_file)]
Name = Annotated[str, AfterValidator(_check_name)]


class Acme(Model):
    """An order to a CA by ACME (RFC 8555). Each host that serves the gateway makes it, with keys that never leave the host.

    The CA asks for each of the names on port 80 (http-01), where one of the gateway's listeners without TLS answers.
    `ca_file`: the roots, on each host, that the CA's own address must prove itself by, if not by those of the system.
    """

    directory: str = Field(pattern=r"^https://[!-~]{1,500}$")
    hosts: tuple[Name, ...] = Field(min_length=1, max_length=MAX_NAMES)
    terms_agreed: Literal[True]
    email: str = Field(default="", pattern=r"^([^@\s,?]{1,64}@[^@\s,?]{1,190})?$")
    ca_file: File | None = None

    @model_validator(mode="after")
    def _differ(self) -> Self:
        if len(set(self.hosts)) < len(self.hosts):
            raise ValueError("hosts: names one twice")
        return self

    @property
    def place(self) -> str:
        """What it is known by, whatever else is asked for: so the certificate before it is shown until this one is there."""
        return f"acme/{self.hosts[0]}"


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """A certificate chain and its key, as PEM files."""

    cert_file: str
    key_file: str


class Certificate(Model):
    """A certificate chain and its key: PEM files on each host that serves the gateway, or what is ordered by ACME."""

    cert_file: File | None = None
    key_file: File | None = None
    acme: Acme | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.acme and (self.cert_file or self.key_file):
            raise ValueError("acme: beside it there can be no cert_file and no key_file")
        if not self.acme and not (self.cert_file and self.key_file):
            raise ValueError("needs cert_file and key_file, or acme")
        return self

    @property
    def files(self) -> CertificateFiles | None:
        """Where it is read from, if it is."""
        return CertificateFiles(self.cert_file, self.key_file) if self.cert_file and self.key_file else None

    @property
    def place(self) -> str:
        """What it is known by: its file, or the first name that is ordered."""
        return self.acme.place if self.acme else self.cert_file or ""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate chain with its key."""

    chain_pem: bytes
    key_pem: bytes = field(repr=False)
