"""`init`'s first authority: a root and an intermediate on this machine, what is told to the store, and this host's enrolment.

In process, since nothing runs yet. Whatever is signed here leaves the same audit lines as the daemon's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshagent.authority.founding import found_authority
from meshagent.authority.intermediate import Intermediate
from meshagent.authority.signatory import Asker, Signatory, key_digest
from meshagent.ca.host_identity import ROOTS_FILE, host_key, keep_host
from meshagent.ca.issuance import LONGEST_TTL
from meshagent.ca.x509 import host_id
from meshagent.cli.mesh import OpenMesh, author, now_utc
from meshagent.cli.session import Session
from meshagent.cli.settings_files import agent_settings, kept_credential, older_settings, write_settings
from meshagent.config import AgentConfig
from meshagent.config.authority import AuthorityConfig, load_authority_config
from meshagent.model.identity import TrustBundle
from meshagent.private import private_dir, write_private
from meshagent.state.credentials import least_credential
from meshagent.state.enrolment import GrantRecord, SignerRecord
from meshagent.state.records import encode
from meshagent.state.rights import Grantee
from meshagent.store.base import Expect, Put

BY = "meshagent init"
FILE = "authority.yaml"


@dataclass(frozen=True, slots=True)
class FirstAuthority:
    """The authority that was made: its settings, what it signs with, and the mesh's root (PEM)."""

    config: AuthorityConfig
    intermediate: Intermediate
    root: str
    trust_domain: str

    @property
    def bundle(self) -> TrustBundle:
        """The roots of the new mesh."""
        return TrustBundle(((self.trust_domain, (self.root,)),))


def make_authority(session: Session, trust_domain: str, address: str | None) -> FirstAuthority:
    """Root and intermediate in the authority's directory; those that a run before left there are used again.

    Raises UsageProblem, AuthorityUnavailable and what private files raise.
    """
    path = session.config_path().with_name(FILE)
    older_settings(path)
    config = load_authority_config(path if path.exists() else None, {"store": session.store_url(), "address": address})
    founded = found_authority(config, trust_domain, now_utc())
    return FirstAuthority(config, founded.intermediate, founded.root_pem, trust_domain)


async def publish(session: Session, mesh: OpenMesh, made: FirstAuthority) -> Path:
    """Tell the store of the authority, and write its settings with its own credential. Returns authority.yaml."""
    config, path = made.config, session.config_path().with_name(FILE)
    credential = await least_credential(session.store_url(), session.access(), Grantee("authority"), mesh.keys)
    kept = kept_credential(credential, config.data_dir) if credential else {}
    settings: dict[str, Any] = {"store": config.store, "name": config.name, "address": config.address}
    write_settings(path, settings | {key: str(value) for key, value in kept.items()}, BY)
    record = SignerRecord(
        address=config.address,
        intermediate=made.intermediate.chain_pem.decode(),
        fingerprint=made.intermediate.fingerprint,
        at=now_utc(),
    )
    await mesh.store.commit([Put(mesh.keys.signer(config.name), encode(record))])
    return path


async def enrol_here(
    session: Session, mesh: OpenMesh, made: FirstAuthority, config: AgentConfig, services: tuple[str, ...]
) -> dict[str, Any]:
    """Let this host in as these services. Returns its settings, without the way to the store."""
    host, directory, asker = config.host.name, private_dir(config.data_dir), Asker(by=author(now_utc()).who)
    key = host_key(directory).public_key()
    grant = GrantRecord(
        host=host,
        services=services,
        max_ttl_seconds=int(LONGEST_TTL.total_seconds()),
        key_sha256=key_digest(key),
        by=asker.by,
        at=now_utc(),
    )
    signatory = Signatory(made.config.data_dir, now_utc)
    signatory.intermediate = made.intermediate
    name = host_id(made.trust_domain, host)
    await signatory.grant(name, services, grant.key_sha256, asker)
    await mesh.store.commit([Expect(mesh.keys.grant(host), 0), Put(mesh.keys.grant(host), encode(grant))])
    ttl = made.config.host_ttl
    chain = await signatory.sign(key, name, "host", ttl, ttl, asker)
    write_private(directory / ROOTS_FILE, made.root.encode())
    keep_host(directory, chain, host, made.bundle, made.trust_domain, now_utc())
    return agent_settings(session.store_url(), {"name": host}, [made.config.address], {})
