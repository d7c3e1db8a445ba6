"""How many requests an app is given -> filters behind the intentions', whose measures change without draining anything.

A rate comes with the routes, by RDS: Envoy makes the buckets of a filter for each filter chain, and there is one for each
source, but the buckets of a route once for all chains that name the same route configuration (measured on 1.40: by
ECDS two callers got 12 of a burst of 6). Adaptive concurrency has no route's configuration, so each chain measures for itself.
"""

from __future__ import annotations

from datetime import timedelta
from math import ceil

from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.route.v3.route_components_pb2 import RateLimit as RateLimitActions
from envoy.config.route.v3.route_components_pb2 import VirtualHost
from envoy.extensions.filters.http.adaptive_concurrency.v3.adaptive_concurrency_pb2 import AdaptiveConcurrency
from envoy.extensions.filters.http.local_ratelimit.v3.local_rate_limit_pb2 import LocalRateLimit
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter
from envoy.extensions.rate_limit_descriptors.expr.v3.expr_pb2 import Descriptor
from envoy.type.v3.token_bucket_pb2 import TokenBucket

from meshagent.model.traffic import AdaptiveConcurrency as AskedConcurrency
from meshagent.model.traffic import RateLimit
from meshagent.model.view import Inbound
from meshagent.translate.settings import by_ecds, pack

LIMIT = "limit"
_CALLER = "caller"
_CALLERS = 10_000  # that are counted apart at once; the longest unseen one makes room
_SHORTEST_FILL = 0.05  # seconds: Envoy takes no less
_UNLIMITED = 1_000_000_000


def concurrency_name(service: str) -> str:
    """The ECDS name of a service's adaptive concurrency."""
    return f"concurrency/{service}"


def admission_filters(inbound: Inbound) -> list[HttpFilter]:
    """Places for what is asked, and nothing where nothing is. Until the configuration is there they let all through."""
    filters = []
    if inbound.admission.rate_limit:
        place = HttpFilter(name=LIMIT)
        pack(place.typed_config, LocalRateLimit(stat_prefix=f"in.{inbound.service}"))
        filters.append(place)
    if asked := inbound.admission.adaptive_concurrency:
        off = _concurrency(asked)
        off.enabled.default_value.value = False
        off.enabled.runtime_key = "meshagent.concurrency"
        place = HttpFilter(name=concurrency_name(inbound.service))
        by_ecds(place.config_discovery, off)
        filters.append(place)
    return filters


def concurrency_config(inbound: Inbound) -> TypedExtensionConfig | None:
    """What the place of adaptive concurrency holds."""
    asked = inbound.admission.adaptive_concurrency
    if asked is None:
        return None
    config = TypedExtensionConfig(name=concurrency_name(inbound.service))
    pack(config.typed_config, _concurrency(asked))
    return config


def add_limit(host: VirtualHost, inbound: Inbound) -> None:
    """The rate, where one is asked for."""
    if asked := inbound.admission.rate_limit:
        pack(host.typed_per_filter_config[LIMIT], _limit(inbound.service, asked))


def _limit(service: str, asked: RateLimit) -> LocalRateLimit:
    limit = LocalRateLimit(stat_prefix=f"in.{service}")
    for share in (limit.filter_enabled, limit.filter_enforced):
        share.default_value.numerator = 100
    if asked.per == "service":
        fill(limit.token_bucket, asked)
        return limit
    # A bucket for every value of the descriptor. Measured on Envoy 1.40: a generic key is not substituted, a CEL
    # expression is.
    caller = Descriptor(descriptor_key=_CALLER, text="connection.uri_san_peer_certificate")
    action = RateLimitActions.Action()
    action.extension.name = "envoy.rate_limit_descriptors.expr"
    pack(action.extension.typed_config, caller)
    limit.rate_limits.add().actions.append(action)
    each = limit.descriptors.add()
    each.entries.add(key=_CALLER)
    fill(each.token_bucket, asked)
    limit.max_dynamic_descriptors.value = _CALLERS
    limit.token_bucket.max_tokens = _UNLIMITED
    limit.token_bucket.tokens_per_fill.value = _UNLIMITED
    limit.token_bucket.fill_interval.FromSeconds(1)
    return limit


def fill(bucket: TokenBucket, asked: RateLimit) -> None:
    """The measure of a rate: as many tokens at a time as it takes to stay above Envoy's shortest interval."""
    tokens = max(1, ceil(asked.requests_per_second * _SHORTEST_FILL))
    bucket.max_tokens = asked.burst or max(tokens, ceil(asked.requests_per_second))
    bucket.tokens_per_fill.value = tokens
    bucket.fill_interval.FromTimedelta(timedelta(seconds=tokens / asked.requests_per_second))


def _concurrency(asked: AskedConcurrency) -> AdaptiveConcurrency:
    concurrency = AdaptiveConcurrency()
    gradient = concurrency.gradient_controller_config
    gradient.sample_aggregate_percentile.value = 90
    gradient.concurrency_limit_params.max_concurrency_limit.value = asked.most
    gradient.concurrency_limit_params.concurrency_update_interval.FromMilliseconds(100)
    gradient.min_rtt_calc_params.interval.FromTimedelta(asked.measured_each)
    gradient.min_rtt_calc_params.min_concurrency.value = asked.fewest
    gradient.min_rtt_calc_params.jitter.value = 10
    return concurrency
