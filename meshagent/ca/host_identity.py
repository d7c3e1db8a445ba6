"""A host's own key and certificate: what an authority knows it by. Made once by `join`, renewed by the provider."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from meshagent.ca.keys import kept_key, request_with
from meshagent.ca.x509 import UNREADABLE, accept_host
from meshagent.errors import CertificateRefused, NotFound
from meshagent.model.identity import Svid, TrustBundle
from meshagent.private import read_private, write_private

KEY_FILE, CHAIN_FILE, ROOTS_FILE = "host.key", "host.pem", "roots.pem"
_JOIN = "join this host: `meshagent token create` where the mesh is kept, then `meshagent join` here"


def host_key(directory: Path) -> ec.EllipticCurvePrivateKey:
    """The host's key in its directory, made when there is none. Raises CertificateRefused, and what private files raise."""
    path = directory / KEY_FILE
    return kept_key(path, lambda what: CertificateRefused(f"{path} {what}", next_step=f"rm {path}, then {_JOIN}"))


def host_csr(key: ec.EllipticCurvePrivateKey) -> str:
    """A CSR (PEM) for the key; it names nobody, since an authority takes nothing but the key of it."""
    return request_with(key).decode()


def keep_host(
    directory: Path, chain_pem: bytes, host: str, bundle: TrustBundle, trust_domain: str, now: datetime
) -> Svid:
    """Check what an authority gave for the host's key, and keep it. Raises CertificateRefused; then nothing was changed."""
    accepted = accept_host(chain_pem, read_private(directory / KEY_FILE), host, bundle, trust_domain, now)
    write_private(directory / CHAIN_FILE, accepted.chain_pem)
    return accepted


def load_host(directory: Path, bundle: TrustBundle, trust_domain: str, now: datetime) -> Svid:
    """The host's certificate as it is kept. Raises CertificateRefused where there is none, or none that is still good."""
    try:
        chain, key = read_private(directory / CHAIN_FILE), read_private(directory / KEY_FILE)
        return accept_host(chain, key, host_named(chain, trust_domain), bundle, trust_domain, now)
    except NotFound:
        raise CertificateRefused(
            f"this host has not joined: {directory} holds no certificate", next_step=_JOIN
        ) from None
    except CertificateRefused as error:
        raise CertificateRefused(f"this host's own certificate is of no use: {error}", next_step=_JOIN) from None


def load_own(directory: Path, roots: tuple[str, ...], now: datetime) -> Svid:
    """As `load_host`, of the trust domain that the certificate itself names and these roots vouch for."""
    try:
        uri = _uri(read_private(directory / CHAIN_FILE))
    except NotFound:
        raise CertificateRefused(f"{directory} holds no certificate", next_step=_JOIN) from None
    domain = uri.removeprefix("spiffe://").partition("/")[0]
    return load_host(directory, TrustBundle(((domain, roots),)), domain, now)


def host_named(chain_pem: bytes, trust_domain: str) -> str:
    """The host that a host's certificate names. Raises CertificateRefused."""
    before = f"spiffe://{trust_domain}/host/"
    uri = _uri(chain_pem)
    if not uri.startswith(before):
        raise CertificateRefused(f"the host's certificate names no host of {trust_domain}", next_step=_JOIN)
    return uri.removeprefix(before)


def _uri(chain_pem: bytes) -> str:
    """The one URI of the leaf, "" for none."""
    try:
        leaf = x509.load_pem_x509_certificates(chain_pem)[0]
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (*UNREADABLE, x509.ExtensionNotFound):
        return ""
    return str(uri)
