"""TLS contexts. Between sidecars TLS 1.3 only, both ends prove a SPIFFE ID, names come from policy and never from the peer."""

from __future__ import annotations

from envoy.config.core.v3.base_pb2 import TransportSocket
from envoy.extensions.transport_sockets.quic.v3.quic_transport_pb2 import QuicDownstreamTransport
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import (
    CertificateValidationContext,
    SubjectAltNameMatcher,
    TlsParameters,
)
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import CommonTlsContext, DownstreamTlsContext, UpstreamTlsContext

from meshagent.model.identity import Domains
from meshagent.translate.secrets import svid_name
from meshagent.translate.settings import ROOTS, from_ads, pack

BYTES = "meshagent-l4"  # ALPN: the bytes are passed on as they are


def server_name(source: str, destination: str, trust_domain: str) -> str:
    """The SNI by which a caller's sidecar says who calls whom; the certificate must agree."""
    return f"{source}.{destination}.{trust_domain}"


def accept_from(
    socket: TransportSocket, service: str, domains: Domains, source: str | None, alpn: tuple[str, ...]
) -> None:
    """TLS of an inbound chain: our SVID, a client certificate of exactly `source`, or of anyone in the trust domains."""
    context = DownstreamTlsContext()
    context.require_client_certificate.value = True
    # A resumed session is not checked against the certificate's expiry (measured: facts/security.md, finding 6).
    context.disable_stateless_session_resumption = True
    context.disable_stateful_session_resumption = True
    names = _common(context.common_tls_context, service, alpn)
    if source is None:
        for prefix in domains.prefixes():
            names.match_typed_subject_alt_names.add(san_type=SubjectAltNameMatcher.URI).matcher.prefix = prefix
    else:
        _only(names, domains.ids(source))
    _name(socket, context)


def connect_to(
    socket: TransportSocket, source: str, destination: str, sni: str, domains: Domains, alpn: tuple[str, ...]
) -> None:
    """TLS of an upstream cluster: our SVID, and only the destination's own SVID will do."""
    context = UpstreamTlsContext(sni=sni)
    _only(_common(context.common_tls_context, source, alpn), domains.ids(destination))
    _name(socket, context)


def connect_to_native(socket: TransportSocket, source: str, destination: str, domains: Domains) -> None:
    """TLS to a proxy of Consul's own. It shows an SVID of Consul's CA, and takes no other.

    Measured on 1.8.7: `consul connect proxy` speaks TLS 1.3 and does not look at the server name; Consul's Envoys do.
    """
    theirs = domains.consul
    names = [f"{destination}.default.{form.split('/')[3]}.internal.{domain}" for domain, form in theirs.forms]
    context = UpstreamTlsContext(sni=names[0] if names else "")
    _only(_common(context.common_tls_context, source, ()), theirs.ids(destination))
    _name(socket, context)


def accept_native(socket: TransportSocket, service: str, domains: Domains, sources: tuple[str, ...] | None) -> None:
    """TLS of the chain for callers without a server name: of these sources, or of anyone (None), by Consul's CA."""
    context = DownstreamTlsContext()
    context.require_client_certificate.value = True
    context.disable_stateless_session_resumption = True
    context.disable_stateful_session_resumption = True
    # Consul's proxies offer h2 whatever bytes they carry (measured), so nothing is agreed on and the bytes are looked at.
    names = _common(context.common_tls_context, service, ())
    if sources is None:
        for prefix in domains.consul.prefixes():
            names.match_typed_subject_alt_names.add(san_type=SubjectAltNameMatcher.URI).matcher.prefix = prefix
    for source in sources or ():
        _only(names, domains.consul.ids(source))
    _name(socket, context)


def serve_outside(socket: TransportSocket, certificates: tuple[str, ...]) -> None:
    """TLS towards outside with these secrets; the name that a client asks for chooses among them, or else the first."""
    context = _outside(TlsParameters.TLSv1_2, ("h2", "http/1.1"), certificates)
    _name(socket, context)


def serve_outside_by_quic(socket: TransportSocket, certificates: tuple[str, ...]) -> None:
    """The same for HTTP/3, where there is TLS 1.3 alone.

    What a client sends before the handshake is done (0-RTT) is not taken: whoever recorded it could send it again.
    """
    quic = QuicDownstreamTransport()
    quic.downstream_tls_context.CopyFrom(_outside(TlsParameters.TLSv1_3, ("h3",), certificates))
    quic.enable_early_data.value = False
    socket.name = "envoy.transport_sockets.quic"
    pack(socket.typed_config, quic)


def _outside(
    oldest: TlsParameters.TlsProtocol.ValueType, alpn: tuple[str, ...], certificates: tuple[str, ...]
) -> DownstreamTlsContext:
    context = DownstreamTlsContext()
    common = context.common_tls_context
    common.tls_params.tls_minimum_protocol_version = oldest
    common.tls_params.tls_maximum_protocol_version = TlsParameters.TLSv1_3
    common.alpn_protocols.extend(alpn)
    for name in certificates:
        from_ads(common.tls_certificate_sds_secret_configs.add(name=name).sds_config)
    return context


def _common(common: CommonTlsContext, service: str, alpn: tuple[str, ...]) -> CertificateValidationContext:
    common.alpn_protocols.extend(alpn)
    # An upstream context stops at 1.2 unless told (measured), and 1.3 alone is what the other side takes.
    common.tls_params.tls_minimum_protocol_version = TlsParameters.TLSv1_3
    common.tls_params.tls_maximum_protocol_version = TlsParameters.TLSv1_3
    own = common.tls_certificate_sds_secret_configs.add(name=svid_name(service))
    from_ads(own.sds_config)
    combined = common.combined_validation_context
    combined.validation_context_sds_secret_config.name = ROOTS
    from_ads(combined.validation_context_sds_secret_config.sds_config)
    return combined.default_validation_context


def _only(names: CertificateValidationContext, ids: tuple[str, ...]) -> None:
    for uri in ids:
        names.match_typed_subject_alt_names.add(san_type=SubjectAltNameMatcher.URI).matcher.exact = uri


def _name(socket: TransportSocket, context: DownstreamTlsContext | UpstreamTlsContext) -> None:
    socket.name = "envoy.transport_sockets.tls"
    pack(socket.typed_config, context)
