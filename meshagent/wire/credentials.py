"""What a client of a store on the network asks for: who we are, and whom we believe. No client is imported with it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class TlsFiles(Protocol):
    """How the server is known, and how we are."""

    @property
    def ca_file(self) -> Path | None:
        """The PEM roots that the server's certificate must chain to."""

    @property
    def cert_file(self) -> Path | None:
        """The certificate that the server is shown."""

    @property
    def key_file(self) -> Path | None:
        """The key of that certificate."""

    @property
    def tls(self) -> bool:
        """Whether the server is to be reached by TLS."""


class ConsulCredentials(TlsFiles, Protocol):
    """Who we are to Consul."""

    def token(self) -> str:
        """The ACL token as it is now, "" for none. Raises StoreDenied when it cannot be read."""


class EtcdCredentials(TlsFiles, Protocol):
    """Who we are to etcd."""

    @property
    def username(self) -> str:
        """etcd's user, "" for none."""

    def password(self) -> str:
        """The password as it is now. Raises StoreDenied when it cannot be read."""
