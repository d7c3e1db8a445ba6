"""Istio's objects by kind (istio/api: networking/v1, security/v1), and what becomes of the kinds that have no place here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from meshagent.documents.read import Reading
from meshagent.importing.istio.authorization import authorization_parts
from meshagent.importing.istio.entries import service_entry
from meshagent.importing.istio.peers import peer_authentication
from meshagent.importing.istio.settings import destination_rule
from meshagent.importing.istio.virtual import virtual_service
from meshagent.importing.names import Names
from meshagent.importing.parts import Converter, Gathered, Part, Source, body_of

CONVERTERS: Mapping[str, Converter] = {
    "VirtualService": virtual_service,
    "DestinationRule": destination_rule,
    "PeerAuthentication": peer_authentication,
    "ServiceEntry": service_entry,
}
ELSEWHERE: Mapping[str, str] = {
    "RequestAuthentication": "tokens of end users are not checked here: the application, or a gateway, does that",
    "Gateway": "traffic from outside of the mesh is a gateway's: put a reverse proxy with an upstream before the service",
    "Sidecar": "a service reaches the upstreams that it declares, nothing else: list them in services.d",
    "Telemetry": "logs and metrics are settings of the mesh document (access_log) and of the agent",
    "WorkloadEntry": "an instance registers itself: meshagent up service.yaml on its host",
    "WorkloadGroup": "an instance registers itself: meshagent up service.yaml on its host",
    "EnvoyFilter": "Envoy is not configured by hand here: find the feature among the documents' fields",
    "WasmPlugin": "there are no plug-ins in the proxy: put the work into the application",
    "ProxyConfig": "Envoy's resources are settings of the agent",
    "Service": "an instance registers itself: meshagent up service.yaml on its host",
    "Deployment": "an instance registers itself: meshagent up service.yaml on its host",
}
NO_KIND = "objects of this kind are no policy of a mesh"
WORDS: Mapping[str, str] = {
    "retries": "is not read here by Istio either: retries belong to a VirtualService's http route",
}
"""Of fields that nobody looked at, by folded name."""


def istio_sources(reading: Reading, file: str) -> Iterator[Source]:
    """The objects of one file."""
    for tree in reading.trees:
        yield from body_of(tree, file)


def istio_parts(sources: Sequence[Source], names: Names) -> list[Part]:
    """What all objects together give."""
    gathered = Gathered()
    policies: list[Source] = []
    for source in sources:
        if source.kind == "AuthorizationPolicy":
            policies.append(source)
        elif source.kind in CONVERTERS:
            gathered.take(source, names, CONVERTERS[source.kind])
        else:
            source.whole.drop(ELSEWHERE.get(source.kind, NO_KIND), "not imported")
    permissive = {part.name for part in gathered.parts if part.data.get("mtls") == "permissive"}
    return gathered.parts + authorization_parts(policies, names, permissive)
