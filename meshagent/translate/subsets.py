"""Subsets: an endpoint says to which it belongs, a route which it wants. So neither changes a cluster, and nothing drains."""

from __future__ import annotations

from collections.abc import Iterable

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import Metadata

_NAMESPACE, _KEY = "envoy.lb", "subset"


def divide(cluster: Cluster) -> None:
    """Let requests choose a subset. One that has no instance gets no request, and who names none gets any instance."""
    cluster.lb_subset_config.fallback_policy = Cluster.LbSubsetConfig.ANY_ENDPOINT
    cluster.lb_subset_config.list_as_any = True
    selector = cluster.lb_subset_config.subset_selectors.add(keys=[_KEY])
    selector.fallback_policy = Cluster.LbSubsetConfig.LbSubsetSelector.NO_FALLBACK


def belong(metadata: Metadata, subsets: Iterable[str]) -> None:
    """Put an endpoint into subsets."""
    for name in subsets:
        metadata.filter_metadata[_NAMESPACE].fields[_KEY].list_value.values.add(string_value=name)


def choose(metadata: Metadata, subset: str) -> None:
    """Ask for a subset."""
    metadata.filter_metadata[_NAMESPACE].fields[_KEY].string_value = subset
