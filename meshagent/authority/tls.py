"""The authority's TLS: its own short-lived certificate, and which hosts' certificates it takes. TLS 1.3 alone."""

from __future__ import annotations

import ssl
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from meshagent.authority.intermediate import Intermediate
from meshagent.authority.signatory import key_digest
from meshagent.ca.issuance import SERVER_ONLY, issue, to_pem
from meshagent.ca.x509 import UNREADABLE, key_to_pem
from meshagent.config.authority import split_place
from meshagent.errors import CertificateRefused
from meshagent.model.names import check_service_name
from meshagent.private import write_private

FILE = "serving.pem"
LIFE = timedelta(hours=24)
_JOIN = "join this host: meshagent join with a new join line"


class Peer:
    """The host at the other end, known by the certificate that the handshake verified."""

    def __init__(self, host: str, key_sha256: str) -> None:
        self.host = host
        self.key_sha256 = key_sha256


def serving_context(
    directory: Path,
    intermediate: Intermediate,
    name: str,
    trust_domain: str,
    address: str,
    roots: tuple[str, ...],
    now: datetime,
) -> ssl.SSLContext:
    """TLS as the authority of this name at this address, for clients with a certificate of these roots or with none.

    The key is new each time; it is in a private file because the TLS library reads no other way. Sessions are never
    resumed: each connection shows a certificate that is good now.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    identity = f"spiffe://{trust_domain}/authority/{name}"
    life = min(LIFE, intermediate.ends - now)
    own = issue(key.public_key(), identity, life, intermediate.issuer, now, SERVER_ONLY, (split_place(address)[0],))
    path = directory / FILE
    write_private(path, key_to_pem(key) + to_pem(own) + intermediate.chain_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_OPTIONAL
    context.num_tickets = 0
    context.load_cert_chain(path)
    context.load_verify_locations(cadata="".join(roots))
    return context


def peer_of(certificate_der: bytes | None, trust_domain: str, now: datetime) -> Peer:
    """The host that a verified certificate names. Raises CertificateRefused: there is none, or it is no host's (attack 42)."""
    if certificate_der is None:
        raise CertificateRefused("no host's certificate was shown", next_step=_JOIN)
    try:
        certificate = x509.load_der_x509_certificate(certificate_der)
        names = list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        key = certificate.public_key()
    except (*UNREADABLE, x509.ExtensionNotFound):
        raise CertificateRefused("the certificate that was shown cannot be read", next_step=_JOIN) from None
    if not certificate.not_valid_before_utc - timedelta(seconds=60) <= now < certificate.not_valid_after_utc:
        raise CertificateRefused("the host's certificate has ended", next_step=_JOIN)
    before = f"spiffe://{trust_domain}/host/"
    if len(names) == 1 and isinstance(names[0], x509.UniformResourceIdentifier) and names[0].value.startswith(before):
        try:
            host = check_service_name(names[0].value.removeprefix(before))
            return Peer(host, key_digest(key))
        except ValueError:
            pass
    raise CertificateRefused("the certificate that was shown is no host's", next_step=_JOIN)
