"""A service's settings -> its callers' clusters. What is not asked for is as lean as without."""

from __future__ import annotations

from datetime import timedelta

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.health_check_pb2 import HealthCheck
from envoy.config.route.v3.route_components_pb2 import RouteAction
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from envoy.type.v3.http_pb2 import CodecClientType
from google.protobuf.duration_pb2 import Duration

from meshagent.model.defaults import RetryBudget
from meshagent.model.traffic import ConnectionPool, LoadBalancer, OutlierDetection, ProxyCheck, Traffic

_POLICIES = {
    "least_request": Cluster.LEAST_REQUEST,
    "round_robin": Cluster.ROUND_ROBIN,
    "random": Cluster.RANDOM,
    "ring_hash": Cluster.RING_HASH,
    "maglev": Cluster.MAGLEV,
}
# Envoy's default of 1024 would refuse quietly; memory is bounded by the limit of downstream connections.
_NO_LIMIT = 1 << 20
_CONNECT = timedelta(seconds=2)
# Whom checks ask for: else it would be the cluster's name, which is no host, and is refused for its slashes.
_CHECKING = "health-check"
_SETTLED = timedelta(
    seconds=5
)  # checks of a service that nobody calls; what follows the first call waits for no longer


def shape(cluster: Cluster, traffic: Traffic) -> None:
    """Carry out a service's settings on the cluster of one of its callers."""
    _balance(cluster, traffic.load_balancer)
    _set(cluster.connect_timeout, traffic.connection_pool.connect_timeout or _CONNECT)
    limit(cluster, traffic.connection_pool, traffic.retry_budget or RetryBudget())
    if traffic.outlier_detection:
        _leave_out(cluster, traffic.outlier_detection)
    if traffic.health_check:
        _check(cluster.health_checks.add(), traffic.health_check)


def shape_aggregate(cluster: Cluster, traffic: Traffic) -> None:
    """The settings of a cluster over others, which have their own limits: how many retries there are."""
    _set(cluster.connect_timeout, traffic.connection_pool.connect_timeout or _CONNECT)
    limit(cluster, ConnectionPool(), traffic.retry_budget or RetryBudget())


def limit(cluster: Cluster, pool: ConnectionPool, budget: RetryBudget) -> None:
    """The limits, or none; and always a retry budget, so that a failure never becomes a storm."""
    limits = cluster.circuit_breakers.thresholds.add()
    for name in ("max_connections", "max_pending_requests", "max_requests"):
        asked = getattr(pool, name)
        getattr(limits, name).value = _NO_LIMIT if asked is None else asked
        # How much is left is counted only where there is a limit: `meshagent doctor` warns before it is reached.
        limits.track_remaining |= asked is not None
    # Envoy's share is of all that is under way, the retries among it: 20 of every 100 first tries are 20 of 120.
    limits.retry_budget.budget_percent.value = round(100 * budget.percent / (100 + budget.percent), 2)
    limits.retry_budget.min_retry_concurrency.value = budget.min_concurrent


def pooled(options: HttpProtocolOptions, pool: ConnectionPool) -> None:
    """The limits of one HTTP connection."""
    common = options.common_http_protocol_options
    if "idle_timeout" in pool.model_fields_set:
        _set(common.idle_timeout, pool.idle_timeout)
    if pool.max_requests_per_connection is not None:
        common.max_requests_per_connection.value = pool.max_requests_per_connection


def hash_policies(action: RouteAction, balancer: LoadBalancer) -> None:
    """What of a request is hashed; the first that the request has decides."""
    for each in balancer.hash_on:
        policy = action.hash_policy.add(terminal=True)
        if each.header is not None:
            policy.header.header_name = each.header
        elif each.query is not None:
            policy.query_parameter.name = each.query
        else:
            policy.cookie.name = each.cookie or ""
            if each.cookie_ttl is not None:
                policy.cookie.path = "/"
                _set(policy.cookie.ttl, each.cookie_ttl)


def _balance(cluster: Cluster, balancer: LoadBalancer) -> None:
    cluster.lb_policy = _POLICIES[balancer.policy]
    if balancer.slow_start is None:
        return
    if balancer.policy == "round_robin":
        _set(cluster.round_robin_lb_config.slow_start_config.slow_start_window, balancer.slow_start)
    else:
        _set(cluster.least_request_lb_config.slow_start_config.slow_start_window, balancer.slow_start)


def _leave_out(cluster: Cluster, asked: OutlierDetection) -> None:
    """Each count is enforced for certain or not at all: Envoy would otherwise eject by counts that nobody named."""
    outliers = cluster.outlier_detection
    for name in ("interval", "base_ejection_time", "max_ejection_time"):
        _set(getattr(outliers, name), getattr(asked, name))
    outliers.max_ejection_percent.value = asked.max_ejection_percent
    outliers.split_external_local_origin_errors = asked.consecutive_local_origin_failure > 0
    counts = {
        "consecutive_5xx": asked.consecutive_5xx,
        "consecutive_gateway_failure": asked.consecutive_gateway_failure,
        "consecutive_local_origin_failure": asked.consecutive_local_origin_failure,
    }
    for name, count in counts.items():
        if count:
            getattr(outliers, name).value = count
        getattr(outliers, f"enforcing_{name}").value = 100 if count else 0
    outliers.enforcing_success_rate.value = 0
    outliers.enforcing_local_origin_success_rate.value = 0
    outliers.enforcing_failure_percentage.value = 100 if asked.failure_percentage else 0
    if asked.failure_percentage:
        outliers.failure_percentage_threshold.value = asked.failure_percentage
        outliers.failure_percentage_minimum_hosts.value = 2
        outliers.failure_percentage_request_volume.value = 20


def _check(check: HealthCheck, asked: ProxyCheck) -> None:
    for name in ("interval", "timeout"):
        _set(getattr(check, name), getattr(asked, name))
    _set(check.no_traffic_interval, max(_SETTLED, asked.interval))
    check.healthy_threshold.value = asked.healthy_threshold
    check.unhealthy_threshold.value = asked.unhealthy_threshold
    if asked.http is not None:
        check.http_health_check.path = asked.http
        check.http_health_check.host = _CHECKING
        check.http_health_check.codec_client_type = CodecClientType.HTTP2
    elif asked.grpc:
        check.grpc_health_check.authority = _CHECKING
    else:
        check.tcp_health_check.SetInParent()


def _set(field: Duration, value: timedelta) -> None:
    field.FromTimedelta(value)
