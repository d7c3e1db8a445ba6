"""Failover to other services: one cluster over those of a service and of what is called in its place.

Each of them keeps its own server name and takes its own SPIFFE ID alone, its own limits, ejections and checks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.extensions.clusters.aggregate.v3.cluster_pb2 import ClusterConfig

from meshagent.model.names import HTTP_PROTOCOLS
from meshagent.model.view import Outbound
from meshagent.translate.clusters import plain_name, upstream_name
from meshagent.translate.settings import pack
from meshagent.translate.traffic import shape_aggregate


def lead_name(outbound: Outbound) -> str:
    """The cluster that calls are sent to: the upstream's own, or the one over it and what it fails over to."""
    return f"{upstream_name(outbound)}+failover" if outbound.failover else upstream_name(outbound)


def failover_clusters(outbound: Outbound) -> Iterator[Cluster]:
    """The clusters over others, of the outbound and of all that its ways lead to."""
    reached = services_of(outbound)
    for each in (outbound, *outbound.beyond):
        if each.failover:
            yield _aggregate(each, tuple(reached[name] for name in each.failover))


def services_of(outbound: Outbound) -> Mapping[str, Outbound]:
    """What calls may go to, by service."""
    return {each.upstream: each for each in outbound.beyond if not each.subset} | {outbound.upstream: outbound}


def part_of(outbound: Outbound, service: str, subset: str) -> Outbound | None:
    """A subset that has a cluster of its own; None where it is one of its service's cluster."""
    return next((each for each in outbound.beyond if (each.upstream, each.subset) == (service, subset)), None)


def tries_in_place(outbound: Outbound, services: tuple[str, ...]) -> int:
    """After how many tries that failed a call to one of these goes on elsewhere; 0: there is nowhere else.

    To another zone after one, to another service after two: the first may have been one bad instance among good ones.
    """
    reached = services_of(outbound)
    if any(reached[name].tiers for name in services):
        return 1
    return 2 if any(reached[name].failover for name in services) else 0


def _aggregate(outbound: Outbound, others: tuple[Outbound, ...]) -> Cluster:
    cluster = Cluster(name=lead_name(outbound), lb_policy=Cluster.CLUSTER_PROVIDED)
    cluster.cluster_type.name = "envoy.clusters.aggregate"
    config = ClusterConfig()
    for each in (outbound, *others):
        config.clusters.append(upstream_name(each))
        if each.plain_endpoints and each.protocol in HTTP_PROTOCOLS:
            config.clusters.append(plain_name(each))
    pack(cluster.cluster_type.typed_config, config)
    shape_aggregate(cluster, outbound.traffic)
    return cluster
