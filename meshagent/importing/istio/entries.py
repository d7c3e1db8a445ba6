"""ServiceEntry: of a service in the mesh its protocol (istio/api networking/v1alpha3/service_entry.proto)."""

from __future__ import annotations

from collections.abc import Iterator

from meshagent.importing.ledger import Misfit
from meshagent.importing.names import Names
from meshagent.importing.parts import Part, Source

_PROTOCOLS = {"HTTP": "http", "HTTP2": "http2", "GRPC": "grpc", "TCP": "tcp", "MONGO": "tcp", "TLS": "tcp"}
_REGISTERS = "an instance registers itself: meshagent up service.yaml on its host"


def service_entry(source: Source, names: Names) -> Iterator[Part]:
    """The protocol of the first port; endpoints register themselves. A host outside of the mesh is no service."""
    body = source.body
    body.leave(_REGISTERS, "endpoints", "resolution", "addresses", "workloadSelector")
    body.leave("who may call is said by intentions", "exportTo", "subjectAltNames")
    outside = (body.one_of("location", "MESH_EXTERNAL", "MESH_INTERNAL") or "MESH_EXTERNAL") == "MESH_EXTERNAL"
    hosts = body.texts("hosts")
    if not hosts:
        raise Misfit(body.at("hosts"), "service entry must have at least one host")
    ports = body.each("ports")
    for port in ports:
        port.leave(_REGISTERS, "targetPort")
        port.ignore("name", "number")
    given = [port.text("protocol") or "TCP" for port in ports]
    if len(set(given)) > 1:
        body.tell("left out", "a service has one port here: the first one's protocol is taken", "ports")
    for host in hosts:
        if outside and not host.endswith(".cluster.local") and not names.given(host):
            words = f"{host} is outside of the mesh: applications call it directly, or through an instance that you register"
            body.tell("left out", words, "hosts")
        elif given and (protocol := _PROTOCOLS.get(given[0].upper())) is None:
            body.tell("left out", f"the protocol {given[0]} is not known here", "ports")
        elif given and (name := names.host(body, host, source.space)):
            yield Part("service", name, {"protocol": protocol}, body)
