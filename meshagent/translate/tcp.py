"""TCP proxies."""

from __future__ import annotations

from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy

NOWHERE = "nowhere"  # no cluster has this name: a connection sent there is closed


def tcp_forward(stat_prefix: str, cluster: str) -> TcpProxy:
    """Bytes to a cluster. An idle connection stays: Envoy's default of an hour would cut database pools."""
    proxy = TcpProxy(stat_prefix=stat_prefix, cluster=cluster)
    proxy.idle_timeout.SetInParent()
    proxy.max_connect_attempts.value = 2
    return proxy
