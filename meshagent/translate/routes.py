"""A caller's ways to an upstream -> its route configuration (HTTP, by RDS) or its proxy (TCP, by ECDS).

Both change without a listener or a cluster, so no connection and no stream is drained.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from envoy.config.core.v3.base_pb2 import HeaderValueOption
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.route.v3.route_components_pb2 import (
    RedirectAction,
    Route,
    RouteAction,
    VirtualHost,
    WeightedCluster,
)
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf.duration_pb2 import Duration

from meshagent.model.defaults import Timeouts
from meshagent.model.names import HTTP_PROTOCOLS
from meshagent.model.route import Headers, Redirect, Respond, RouteRule, Target
from meshagent.model.view import Endpoint, Outbound, ProxyView, Way
from meshagent.translate.accesslog import MARKED, OUTBOUND, Line, log_mark, logs
from meshagent.translate.choosing import choose_by
from meshagent.translate.clusters import plain_name, upstream_name
from meshagent.translate.counting import outbound_prefix, route_prefix, rule_name
from meshagent.translate.extras import add_extras, set_percent
from meshagent.translate.failover import lead_name, part_of, services_of, tries_in_place
from meshagent.translate.retries import UNREACHED, hedged, onward, retried, safe_retries
from meshagent.translate.rewriting import move_prefix, rewritten
from meshagent.translate.settings import Settings
from meshagent.translate.subsets import choose
from meshagent.translate.tcp import NOWHERE, tcp_forward
from meshagent.translate.tracing import trace_route
from meshagent.translate.traffic import hash_policies

_FINE = 100  # parts of a weight, where a target has instances of two kinds
_ITSELF = Target()
_REDIRECTS = {
    301: RedirectAction.MOVED_PERMANENTLY,
    302: RedirectAction.FOUND,
    303: RedirectAction.SEE_OTHER,
    307: RedirectAction.TEMPORARY_REDIRECT,
    308: RedirectAction.PERMANENT_REDIRECT,
}


def outbound_routes(outbound: Outbound) -> RouteConfiguration | None:
    """The routes of requests: its ways in order, and behind them the upstream itself; None where only bytes are seen."""
    if not outbound.by_request:
        return None
    routes = RouteConfiguration(name=upstream_name(outbound))
    routes.response_headers_to_remove.append(UNREACHED)  # it is said among proxies
    host = routes.virtual_hosts.add(name=outbound.upstream, domains=["*"])
    add_routes(host, outbound)
    return routes


def add_routes(host: VirtualHost, outbound: Outbound) -> None:
    """Its ways in order, and behind them the upstream itself."""
    for way in outbound.ways:
        _add(host.routes.add(), way, outbound)
    last = host.routes.add()
    last.match.prefix = "/"
    if outbound.ways:
        last.stat_prefix = route_prefix(outbound.source, outbound.upstream)
    _forward(last.route, RouteRule(), (_ITSELF,), outbound)


def outbound_proxy(outbound: Outbound, view: ProxyView, settings: Settings) -> TypedExtensionConfig:
    """What connections do of which only bytes are seen. A change is for new ones; those that are open go on."""
    prefix = outbound_prefix(outbound)
    way = outbound.ways[0] if outbound.ways else None
    weighed = _weighed((way.to or (_ITSELF,)) if way else (_ITSELF,), outbound)
    places = tuple(each for each in weighed if each.weight)
    if way and way.nowhere:
        proxy = tcp_forward(prefix, NOWHERE)
    elif len(places) == 1:
        proxy = tcp_forward(prefix, places[0].cluster)
        if subset := places[0].subset:
            choose(proxy.metadata_match, subset)
    else:
        proxy = tcp_forward(prefix, "")
        for each in places:
            share = proxy.weighted_clusters.clusters.add(name=each.cluster, weight=each.weight)
            if each.subset:
                choose(share.metadata_match, each.subset)
    idle = way.rule.idle_timeout if way else None
    if (idle := outbound.traffic.timeouts.idle if idle is None else idle) is not None:
        proxy.idle_timeout.FromTimedelta(idle)
    log = (way.rule.access_log if way else None) or outbound.traffic.access_log or view.access_log
    line = Line(outbound.source, f"{OUTBOUND}{outbound.upstream}", view.trust_domain, False)
    proxy.access_log.extend(logs(log, line, settings))
    config = TypedExtensionConfig(name=upstream_name(outbound))
    config.typed_config.Pack(proxy, deterministic=True)
    return config


def _add(route: Route, way: Way, outbound: Outbound) -> None:
    rule = way.rule
    route.name = rule_name(rule, way.index)
    route.stat_prefix = route_prefix(outbound.source, outbound.upstream, route.name)
    choose_by(route.match, rule.match)
    if rule.redirect:
        _redirect(route.redirect, rule, rule.redirect)
    elif rule.respond:
        _respond(route, rule.respond)
    elif way.nowhere:
        _respond(route, Respond(status=503, body="no target of this route can be called\n"))
    else:
        _forward(route.route, rule, way.to or (_ITSELF,), outbound)
    change_headers(route, rule.headers)
    if rule.access_log:
        route.metadata.filter_metadata[MARKED]["log"] = log_mark(rule.access_log)
    if outbound.traced and outbound.traffic.tracing:
        trace_route(route, route.name, (rule.tracing or outbound.traffic.tracing).sampling)
    add_extras(route, rule, outbound_prefix(outbound))


def _forward(action: RouteAction, rule: RouteRule, targets: tuple[Target, ...], outbound: Outbound) -> None:
    _lead(action, tuple(_weighed(targets, outbound)))
    _timed(action, rule, outbound.traffic.timeouts)
    if rule.retry is None:
        safe_retries(action.retry_policy, 2, elsewhere=True)
    elif rule.retry.attempts:
        retried(action.retry_policy, rule.retry)
    called = tuple(dict.fromkeys(target.service or outbound.upstream for target in targets))
    if 0 < (tries := tries_in_place(outbound, called)) <= action.retry_policy.num_retries.value:
        onward(action.retry_policy, tries)
    if rule.hedge:
        hedged(action)
    if rule.rewrite:
        rewritten(action, rule.rewrite, rule.match)
    for mirror in rule.mirror:
        for name in _copied_to(mirror.service or outbound.upstream, mirror.subset or "", outbound):
            copy = action.request_mirror_policies.add(cluster=name, disable_shadow_host_suffix_append=True)
            set_percent(copy.runtime_fraction.default_value, mirror.percent)
    reached = services_of(outbound)
    for service in dict.fromkeys((*called, *(other for name in called for other in reached[name].failover))):
        hash_policies(action, reached[service].traffic.load_balancer)


def _timed(action: RouteAction, rule: RouteRule, told: Timeouts) -> None:
    """The rule's times, else those of the service or the mesh."""
    whole, idle = (rule.timeout, told.request), (rule.idle_timeout, told.idle)
    # 0: a caller's own timeout decides; streams live as long as they like
    _time(action.timeout, _first(whole) or 0)
    if (seconds := _first(idle)) is not None:
        _time(action.idle_timeout, seconds)
    if rule.max_stream_duration is not None:
        _time(action.max_stream_duration.max_stream_duration, rule.max_stream_duration.total_seconds())


@dataclass(frozen=True, slots=True)
class _Place:
    """A cluster that requests of a target go to, with its weight among all, and the subset to choose there."""

    target: Target
    cluster: str
    weight: int
    subset: str | None


def _weighed(targets: tuple[Target, ...], outbound: Outbound) -> Iterator[_Place]:
    """The clusters of the targets. Where one has instances in plain text, each cluster by its instances in service."""
    reached = services_of(outbound)
    pairs = [(target, reached[target.service or outbound.upstream]) for target in targets]
    plainly = [_in_service(to, to.plain_endpoints, target) if _http(to) else 0 for target, to in pairs]
    for (target, to), plain in zip(pairs, plainly, strict=True):
        own = part_of(outbound, to.upstream, target.subset) if to.failover and target.subset else None
        lead, subset = (lead_name(own), None) if own else (lead_name(to), target.subset)
        if not any(plainly):
            yield _Place(target, lead, target.weight, subset)
            continue
        mesh = _in_service(to, to.endpoints, target)
        fine = target.weight * _FINE if len(pairs) > 1 else mesh + plain
        yield _Place(target, lead, fine * mesh // (mesh + plain) if plain else fine, subset)
        if plain:
            yield _Place(target, plain_name(to), fine * plain // (mesh + plain), target.subset)


def _in_service(to: Outbound, endpoints: tuple[Endpoint, ...], target: Target) -> int:
    """How many of these are called: those in service, of the first tier that has any."""
    if not endpoints:
        return 0
    serving = [each for each in to.reached if each.healthy and (target.subset is None or target.subset in each.subsets)]
    first = min((each.tier or 0 for each in serving), default=0)
    return sum((each.tier or 0) == first and each in endpoints for each in serving)


def _lead(action: RouteAction, places: tuple[_Place, ...]) -> None:
    if len(places) == 1 and places[0].target.headers == Headers():
        action.cluster = places[0].cluster
        if subset := places[0].subset:
            choose(action.metadata_match, subset)
        return
    for each in places:
        share = action.weighted_clusters.clusters.add(name=each.cluster)
        share.weight.value = each.weight
        change_headers(share, each.target.headers)
        if each.subset:
            choose(share.metadata_match, each.subset)


def change_headers(target: Route | WeightedCluster.ClusterWeight, headers: Headers) -> None:
    """What is set, added and removed on the way there and back. Envoy removes first."""
    for side, changes in (("request", headers.request), ("response", headers.response)):
        getattr(target, f"{side}_headers_to_remove").extend(changes.remove)
        options = getattr(target, f"{side}_headers_to_add")
        for name, value in changes.set.items():
            _option(options.add(), name, value, replacing=True)
        for name, value in changes.add.items():
            _option(options.add(), name, value, replacing=False)


def _option(option: HeaderValueOption, name: str, value: str, *, replacing: bool) -> None:
    option.header.key, option.header.value = name, value.replace("%", "%%")  # Envoy would fill in %WORDS%
    option.keep_empty_value = True
    if replacing:
        option.append_action = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


def _redirect(action: RedirectAction, rule: RouteRule, asked: Redirect) -> None:
    action.response_code = _REDIRECTS[asked.status]
    action.strip_query = asked.strip_query
    if asked.scheme:
        action.scheme_redirect = asked.scheme
    action.host_redirect = asked.host or ""
    action.port_redirect = asked.port or 0
    if asked.path is not None:
        action.path_redirect = asked.path
    elif asked.path_prefix is not None:
        move_prefix(action, rule.match, asked.path_prefix)


def _respond(route: Route, asked: Respond) -> None:
    route.direct_response.status = asked.status
    if asked.body:
        route.direct_response.body.inline_string = asked.body
        _option(route.response_headers_to_add.add(), "content-type", asked.content_type, replacing=True)


def _copied_to(service: str, subset: str, outbound: Outbound) -> list[str]:
    """The clusters that copies go to: the mesh's, or the plain one where there are only such instances."""
    whole = outbound if service == outbound.upstream and not subset else None
    found = whole or next((each for each in outbound.beyond if (each.upstream, each.subset) == (service, subset)), None)
    if found is None:
        return []
    return [plain_name(found) if found.plain_endpoints and not found.endpoints else upstream_name(found)]


def _http(outbound: Outbound) -> bool:
    return outbound.protocol in HTTP_PROTOCOLS


def _first(told: tuple[timedelta | None, ...]) -> float | None:
    """The seconds that the first who says something says."""
    return next((each.total_seconds() for each in told if each is not None), None)


def _time(field: Duration, seconds: float) -> None:
    field.FromMilliseconds(round(seconds * 1000))
