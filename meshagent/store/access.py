"""What a store on the network asks for: who we are to it, and how we know it. Secrets are files, read when needed.

They are read again each time, so that a token that was replaced on disk (systemd, Nomad, Vault agent) is used at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from meshagent.errors import DataDirUnusable, NotFound, StoreDenied, UnsafeFile
from meshagent.private import read_private


@dataclass(frozen=True, slots=True)
class Access:
    """`token_file` is Consul's ACL token; `username` and `password_file` are etcd's; the rest is TLS for both."""

    token_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    username: str = ""
    password_file: Path | None = None

    def token(self) -> str:
        """The token as the file has it now, "" when none is configured. Raises StoreDenied when it cannot be read."""
        return _secret(self.token_file, "store_token_file")

    def password(self) -> str:
        """The password as the file has it now, "" when none is configured. Raises StoreDenied when it cannot be read."""
        return _secret(self.password_file, "store_password_file")

    @property
    def tls(self) -> bool:
        """Whether anything says that the store is to be reached by TLS."""
        return any((self.ca_file, self.cert_file, self.key_file))


def _secret(path: Path | None, key: str) -> str:
    if path is None:
        return ""
    try:
        return read_private(path).decode().strip()
    except UnicodeDecodeError:
        raise StoreDenied(f"{key}: {path} does not hold text.", next_step="write the secret alone into it") from None
    except (DataDirUnusable, NotFound, UnsafeFile) as error:
        raise StoreDenied(f"{key}: {error}", next_step=error.next_step or f"write the secret into {path}") from None
