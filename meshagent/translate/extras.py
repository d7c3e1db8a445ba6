"""What a rule asks of requests beyond their way: faults, CORS, a rate. Filters that are off unless a route switches them on.

Each has its place in the listener from the start, so that a rule that asks for it travels with the routes and drains nothing.
A place that no rule uses is passed over: all three together cost 1.01 of a request on one plain hop, the control 1.01 (measured).
"""

from __future__ import annotations

from collections.abc import Iterator

from envoy.config.core.v3.base_pb2 import HeaderValueOption
from envoy.config.route.v3.route_components_pb2 import Route
from envoy.extensions.filters.http.cors.v3.cors_pb2 import Cors, CorsPolicy
from envoy.extensions.filters.http.fault.v3.fault_pb2 import HTTPFault
from envoy.extensions.filters.http.local_ratelimit.v3.local_rate_limit_pb2 import LocalRateLimit
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter
from envoy.type.v3.percent_pb2 import FractionalPercent
from google.protobuf.message import Message

from meshagent.model.route import Cors as AskedCors
from meshagent.model.route import Fault, RouteRule
from meshagent.model.traffic import RateLimit
from meshagent.translate.admission import fill
from meshagent.translate.choosing import header_condition
from meshagent.translate.replies import REFUSED, TICKET, TICKET_HEADER
from meshagent.translate.settings import pack

CORS, LIMIT, FAULT = "cors", "limit", "fault"
_IN_A_PERCENT = 10_000


def extra_places(stat_prefix: str) -> Iterator[HttpFilter]:
    """The places, in the order in which they are passed: a browser's question is answered before all else."""
    empty: tuple[tuple[str, Message], ...] = (
        (CORS, Cors()),
        (LIMIT, LocalRateLimit(stat_prefix=stat_prefix)),
        (FAULT, HTTPFault()),
    )
    for name, config in empty:
        place = HttpFilter(name=name, disabled=True)
        pack(place.typed_config, config)
        yield place


def add_extras(route: Route, rule: RouteRule, stat_prefix: str) -> None:
    """Switch on what the rule asks for."""
    if rule.cors:
        pack(route.typed_per_filter_config[CORS], _cors(rule.cors))
    if rule.rate_limit:
        pack(route.typed_per_filter_config[LIMIT], _limit(rule.rate_limit, stat_prefix))
    if rule.fault:
        pack(route.typed_per_filter_config[FAULT], _fault(rule.fault))


def set_percent(share: FractionalPercent, percent: float) -> None:
    """Of a million, so that a ten-thousandth of a percent still counts."""
    share.numerator = round(percent * _IN_A_PERCENT)
    share.denominator = FractionalPercent.MILLION


def _fault(asked: Fault) -> HTTPFault:
    fault = HTTPFault(headers=[header_condition(each) for each in asked.headers])
    if asked.delay:
        fault.delay.fixed_delay.FromTimedelta(asked.delay.duration)
        set_percent(fault.delay.percentage, asked.delay.percent)
    if asked.abort:
        set_percent(fault.abort.percentage, asked.abort.percent)
        if asked.abort.status is not None:
            fault.abort.http_status = asked.abort.status
        else:
            fault.abort.grpc_status = asked.abort.grpc_status or 0
    return fault


def _cors(asked: AskedCors) -> CorsPolicy:
    policy = CorsPolicy(
        allow_methods=",".join(asked.allow_methods),
        allow_headers=",".join(asked.allow_headers),
        expose_headers=",".join(asked.expose_headers),
    )
    for origin in asked.allow_origins:
        allowed = policy.allow_origin_string_match.add()
        if origin.exact is not None:
            allowed.exact = origin.exact
        elif origin.prefix is not None:
            allowed.prefix = origin.prefix
        else:
            allowed.safe_regex.regex = origin.regex or ""
    policy.allow_credentials.value = asked.allow_credentials
    if asked.max_age is not None:
        policy.max_age = str(int(asked.max_age.total_seconds()))
    return policy


def _limit(asked: RateLimit, stat_prefix: str) -> LocalRateLimit:
    """The caller's own measure, whichever of its connections and of Envoy's threads a request comes by."""
    limit = LocalRateLimit(stat_prefix=stat_prefix)
    for share in (limit.filter_enabled, limit.filter_enforced):
        share.default_value.numerator = 100
    fill(limit.token_bucket, asked)
    for name, value in ((REFUSED, "rate-limit"), (TICKET_HEADER, TICKET)):
        told = HeaderValueOption()
        told.header.key, told.header.value = name, value
        limit.response_headers_to_add.append(told)
    return limit
