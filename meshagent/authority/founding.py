"""The first authority of a new mesh, made before any daemon runs: `meshagent init`."""

from __future__ import annotations

from datetime import datetime

from meshagent.authority.intermediate import Intermediate, adopted, cut, intermediate_key, keep_chain, kept_chain
from meshagent.authority.signatory import Asker, Signatory
from meshagent.authority.standing import own_roots
from meshagent.ca.issuance import public_key_of, to_pem, trust_domain_of
from meshagent.ca.root_files import create_root, load_root
from meshagent.ca.x509 import host_id
from meshagent.config.authority import AuthorityConfig
from meshagent.errors import CertificateRefused, UsageProblem
from meshagent.model.identity import TrustBundle
from meshagent.private import private_dir


def found_authority(config: AuthorityConfig, trust_domain: str, now: datetime) -> TrustBundle:
    """Root and intermediate in the authority's data directory, made where there are none. Gives the bundle with the root.

    Raises UsageProblem when the directory is another mesh's, AuthorityUnavailable, and what private files raise.
    """
    private_dir(config.data_dir)
    private_dir(config.root_dir)
    root = load_root(config.root_dir) or create_root(config.root_dir, trust_domain, now, 1)
    if (owner := trust_domain_of(root.certificate)) != trust_domain:
        raise UsageProblem(
            f"the root in {config.root_dir} is for the trust domain {owner or '(none)'}, not {trust_domain}",
            next_step="set data_dir in authority.yaml to another directory",
        )
    key = intermediate_key(config.data_dir)
    try:
        adopted(kept_chain(config.data_dir), key, (to_pem(root.certificate).decode(),), now)
    except CertificateRefused:
        keep_chain(config.data_dir, cut(key, config.name, trust_domain, root, now))
    return own_roots(root)


async def certify_host(config: AuthorityConfig, trust_domain: str, host: str, csr_pem: bytes, now: datetime) -> bytes:
    """The first host's certificate (PEM chain), signed by the authority in this machine's directory, with an audit line.

    Its grant is the caller's to write, with `key_digest` of the CSR's key. Raises CertificateRefused, AuthorityUnavailable.
    """
    key = public_key_of(csr_pem)
    signatory = Signatory(config.data_dir, lambda: now)
    signatory.intermediate = _kept(config, now)
    ttl = config.host_ttl
    return await signatory.sign(key, host_id(trust_domain, host), "host", ttl, ttl, Asker("init"))


def _kept(config: AuthorityConfig, now: datetime) -> Intermediate | None:
    root = load_root(config.root_dir)
    roots = (to_pem(root.certificate).decode(),) if root else ()
    return adopted(kept_chain(config.data_dir), intermediate_key(config.data_dir), roots, now)
