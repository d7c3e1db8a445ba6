"""The first authority of a new mesh, made before any daemon runs: `meshagent init`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from meshagent.authority.intermediate import Intermediate, adopted, cut, intermediate_key, keep_chain, kept_chain
from meshagent.ca.issuance import Issuer, to_pem, trust_domain_of
from meshagent.ca.root_files import create_root, load_root
from meshagent.config.authority import AuthorityConfig
from meshagent.errors import CertificateRefused, UsageProblem
from meshagent.private import private_dir


@dataclass(frozen=True, slots=True)
class Founded:
    """The mesh's root, and what the first authority signs with."""

    root: Issuer
    intermediate: Intermediate

    @property
    def root_pem(self) -> str:
        """The root's certificate."""
        return to_pem(self.root.certificate).decode()


def found_authority(config: AuthorityConfig, trust_domain: str, now: datetime) -> Founded:
    """Root and intermediate in the authority's data directory, made where there are none.

    Raises UsageProblem when the directory is another mesh's, AuthorityUnavailable, and what private files raise.
    """
    private_dir(config.data_dir)
    private_dir(config.root_dir)
    root = load_root(config.root_dir) or create_root(config.root_dir, trust_domain, now, path_length=1)
    if (owner := trust_domain_of(root.certificate)) != trust_domain:
        raise UsageProblem(
            f"the root in {config.root_dir} is for the trust domain {owner or '(none)'}, not {trust_domain}",
            next_step="set data_dir in authority.yaml to another directory",
        )
    key = intermediate_key(config.data_dir)
    try:
        intermediate = adopted(kept_chain(config.data_dir), key, (to_pem(root.certificate).decode(),), now)
    except CertificateRefused:  # there is none yet, or none of this root
        intermediate = cut(key, config.name, trust_domain, root, now)
        keep_chain(config.data_dir, intermediate)
    return Founded(root, intermediate)
