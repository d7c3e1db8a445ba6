"""SVIDs and trust bundle -> SDS secrets."""

from __future__ import annotations

from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret

from meshagent.model.identity import Svid
from meshagent.model.view import ProxyView
from meshagent.translate.settings import ROOTS


def svid_name(service: str) -> str:
    """The SDS name of a service's SVID."""
    return f"svid/{service}"


def svid_secret(service: str, svid: Svid) -> Secret:
    """The certificate chain and key of a service."""
    secret = Secret(name=svid_name(service))
    secret.tls_certificate.certificate_chain.inline_bytes = svid.chain_pem
    secret.tls_certificate.private_key.inline_bytes = svid.key_pem
    return secret


def roots_secret(view: ProxyView) -> Secret:
    """The roots of the mesh's own trust domain."""
    secret = Secret(name=ROOTS)
    secret.validation_context.trusted_ca.inline_bytes = view.bundle.pem(view.trust_domain)
    return secret
