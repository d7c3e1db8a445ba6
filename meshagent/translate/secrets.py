"""SVIDs and trust bundle -> SDS secrets."""

from __future__ import annotations

from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.extensions.transport_sockets.tls.v3.tls_spiffe_validator_config_pb2 import SPIFFECertValidatorConfig

from meshagent.model.certificate import KeyPair
from meshagent.model.identity import Svid
from meshagent.model.view import ProxyView
from meshagent.translate.settings import ROOTS, pack


def svid_name(service: str) -> str:
    """The SDS name of a service's SVID."""
    return f"svid/{service}"


def svid_secret(service: str, svid: Svid) -> Secret:
    """The certificate chain and key of a service."""
    return _pair_secret(svid_name(service), svid)


def key_pair_name(place: str) -> str:
    """The SDS name of what a gateway shows to outside. What is ordered has no name that a file could have."""
    return f"gateway{place}" if place.startswith("/") else f"gateway:{place}"


def key_pair_secret(place: str, pair: KeyPair) -> Secret:
    """A certificate chain and key for outside."""
    return _pair_secret(key_pair_name(place), pair)


def roots_secret(view: ProxyView) -> Secret:
    """The roots. Where there are several trust domains, those of each vouch for its own SPIFFE IDs alone (attack 22).

    Measured on Envoy 1.40: its SPIFFE validator comes by SDS and takes turns with plain roots without closing a
    connection, and the names that a chain asks for (`match_typed_subject_alt_names`) are checked beside it.
    """
    secret = Secret(name=ROOTS)
    names = view.domains.names
    if len(names) == 1:
        secret.validation_context.trusted_ca.inline_bytes = view.bundle.pem(names[0])
        return secret
    validator = SPIFFECertValidatorConfig()
    for name in names:
        validator.trust_domains.add(name=name).trust_bundle.inline_bytes = view.bundle.pem(name)
    custom = secret.validation_context.custom_validator_config
    custom.name = "envoy.tls.cert_validator.spiffe"
    pack(custom.typed_config, validator)
    return secret


def _pair_secret(name: str, pair: Svid | KeyPair) -> Secret:
    secret = Secret(name=name)
    secret.tls_certificate.certificate_chain.inline_bytes = pair.chain_pem
    secret.tls_certificate.private_key.inline_bytes = pair.key_pem
    return secret
