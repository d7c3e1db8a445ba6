"""Kuma's policies by type (kuma.io/v1alpha1), and what becomes of those that have no place here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from meshagent.documents.read import Reading
from meshagent.importing.kuma.inbound import fault_injection, rate_limit
from meshagent.importing.kuma.outbound import circuit_breaker, retry, timeout
from meshagent.importing.kuma.permission import permission_parts
from meshagent.importing.kuma.route import http_route
from meshagent.importing.names import Names
from meshagent.importing.parts import Converter, Gathered, Part, Source, body_of

_CONVERTERS: Mapping[str, Converter] = {
    "MeshHTTPRoute": http_route,
    "MeshRetry": retry,
    "MeshTimeout": timeout,
    "MeshCircuitBreaker": circuit_breaker,
    "MeshRateLimit": rate_limit,
    "MeshFaultInjection": fault_injection,
}
ELSEWHERE: Mapping[str, str] = {
    "Mesh": "one store is one mesh here: meshagent init makes it, with its CA and trust domain",
    "Dataplane": "an instance registers itself: meshagent up service.yaml on its host",
    "MeshService": "an instance registers itself: meshagent up service.yaml on its host",
    "MeshAccessLog": "set access_log in the mesh document",
    "MeshMetric": "the agent has Prometheus metrics of its own",
    "MeshTrace": "tracing is not a policy here",
    "MeshTLS": "TLS between proxies is 1.3 alone; say mtls: permissive in the document of a service that is meant",
    "MeshLoadBalancingStrategy": "set load_balancer in the service's document",
    "MeshHealthCheck": "set health_check in the service's document",
    "MeshProxyPatch": "Envoy is not configured by hand here: find the feature among the documents' fields",
}
SHADOW = "is in shadow mode (kuma.io/effect: shadow), so Kuma enforces it nowhere: take the label away to import it"


def kuma_sources(reading: Reading, file: str) -> Iterator[Source]:
    """The objects of one file, in the universal form or as Kubernetes objects."""
    for tree in reading.trees:
        yield from body_of(tree, file)


def _mesh_of(source: Source) -> str:
    """The name of the mesh that a policy is of."""
    return str(source.whole.take("mesh") or source.labels.get("kuma.io/mesh") or "default")


def kuma_parts(sources: Sequence[Source], names: Names) -> list[Part]:
    """What all policies together give."""
    gathered = Gathered()
    permissions: list[Source] = []
    first = next((_mesh_of(source) for source in sources if source.kind != "Mesh"), "")
    for source in sources:
        if source.labels.get("kuma.io/effect") == "shadow":
            source.whole.drop(SHADOW, "not imported")
        elif source.kind != "Mesh" and _mesh_of(source) != first:
            source.whole.drop(f"is of another mesh than {first}: import each by itself", "not imported")
        elif source.kind == "MeshTrafficPermission":
            permissions.append(source)
        elif converter := _CONVERTERS.get(source.kind):
            gathered.take(source, names, converter)
        else:
            source.whole.drop(ELSEWHERE.get(source.kind, "there is nothing like it here"), "not imported")
    return gathered.parts + permission_parts(permissions, names)
