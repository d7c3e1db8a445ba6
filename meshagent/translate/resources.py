"""translate(view, svids, settings) -> Translated: every resource of one proxy, by type and name, as deterministic bytes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby

from google.protobuf.message import Message

from meshagent.model.certificate import KeyPair
from meshagent.model.defaults import Tracing
from meshagent.model.external import External
from meshagent.model.gateway import Gateway
from meshagent.model.identity import Svid
from meshagent.model.names import HTTP_PROTOCOLS
from meshagent.model.view import Captured, Egress, Inbound, Outbound, ProxyView, Svids
from meshagent.translate.admission import concurrency_config
from meshagent.translate.capture import calls_of, calls_outside, capture_listener, capture_listener_name
from meshagent.translate.clusters import (
    app_cluster,
    app_cluster_name,
    load_assignment,
    plain_assignment,
    plain_cluster,
    plain_name,
    upstream_cluster,
    upstream_name,
)
from meshagent.translate.egress import egress_listener, egress_rbac
from meshagent.translate.external import external_cluster, external_names, external_roots
from meshagent.translate.failover import failover_clusters
from meshagent.translate.gateway import (
    NO_CHALLENGES,
    calls_of_gateway,
    gateway_listeners,
    gateway_name,
    gateway_routes,
)
from meshagent.translate.inbound import (
    inbound_listener,
    inbound_listener_name,
    inbound_routes,
    inbound_routes_name,
    plain_listener,
    plain_listener_name,
)
from meshagent.translate.local import local_listener_name
from meshagent.translate.natives import natives
from meshagent.translate.outbound import outbound_listener
from meshagent.translate.rbac import bytes_rbac_filter, bytes_rbac_name, plain_rbac_name, rbac_filter, rbac_name
from meshagent.translate.router import ROUTER, router_config, tells_apart
from meshagent.translate.routes import outbound_proxy, outbound_routes
from meshagent.translate.secrets import key_pair_name, key_pair_secret, roots_secret, svid_name, svid_secret
from meshagent.translate.settings import ROOTS, Settings
from meshagent.translate.staging import leaving
from meshagent.translate.tracing import COLLECTOR, collector_cluster
from meshagent.xds.types import CDS, ECDS, EDS, LDS, RDS, SDS

Key = tuple[str, str]  # type URL, name
Resources = Mapping[Key, bytes]
Piece = tuple[object, Resources]  # what the resources depend on, and they
_Named = Iterable[tuple[str, str, Message]]
NO_KEY_PAIRS: Mapping[str, KeyPair] = {}


@dataclass(frozen=True, slots=True)
class Translated:
    """The resources of a view in pieces, each with its cause, so that the next translation reuses them.

    `common` is what all of them depend on. `calls` has one piece for each outbound, in the view's order.
    """

    common: object = None
    pieces: Mapping[Hashable, Piece] = field(default_factory=dict)
    calls: tuple[Piece, ...] = ()

    @property
    def resources(self) -> Resources:
        """All of them in one, made anew."""
        whole: dict[Key, bytes] = {}
        for _, built in (*self.pieces.values(), *self.calls):
            whole.update(built)
        return whole


def translate(
    view: ProxyView,
    svids: Svids,
    settings: Settings,
    previous: Translated | None = None,
    key_pairs: Mapping[str, KeyPair] = NO_KEY_PAIRS,
    challenges: Mapping[str, str] = NO_CHALLENGES,
) -> Translated:
    """All resources of the proxy. What depends on nothing that changed since `previous` is taken from it.

    `key_pairs`: what gateways show to outside, by the certificate's place. `challenges`: what those that order certificates
    answer the CA, by token.
    """
    memo = _Memo(previous, _common(view, settings))
    _add_rules(memo, view)
    for inbound in view.inbounds:
        app = (*_place(inbound), inbound.protocol, inbound.app_address, inbound.app_port)
        memo.add(("app", *_place(inbound)), app, partial(_app, inbound))
        if inbound.admission.rate_limit:
            memo.add(("counted", *_place(inbound)), inbound.admission, partial(_counted, inbound))
        if inbound.plain_port:
            plain = ("plain", *_place(inbound))
            memo.add(plain, (app, inbound.plain_port, _listened(inbound)), partial(_plain, inbound, view, settings))
    for port, group in groupby(sorted(view.inbounds, key=_by_port), key=lambda inbound: inbound.mtls_port):
        members = tuple(group)
        listened = (*map(_listened, members), natives(members, view.domains))
        memo.add(("listen", port), listened, partial(_listener, members, view, settings))
    for captured in view.captured:
        calls = calls_of(captured, view)
        # The log and the traces of a call are settings of its service, or of rules.
        seen = ((call.upstream, call.protocol, call.data_path, call.traffic, call.ways) for call in calls)
        outside = calls_outside(captured, view)
        cause = (captured, tuple(seen), *((each.upstream, _led_outside(each)) for each in outside))
        every: tuple[Outbound | Egress, ...] = (*calls, *outside)
        memo.add(("capture", captured.source), cause, partial(_capture, captured, every, view, settings))
    _add_egresses(memo, view, settings)
    _add_gateways(memo, view, settings, key_pairs, challenges)
    if view.tracing or view.collected:
        memo.add("collector", view.tracing, partial(_collector, view.tracing))
    if any(outbound.by_request for outbound in view.outbounds):
        told_apart = tells_apart(view)
        memo.add("router", told_apart, lambda: [(ECDS, ROUTER, router_config(told_apart))])
    memo.add("roots", view.bundle, lambda: [(SDS, ROOTS, roots_secret(view))])
    for service in sorted(
        {inbound.service for inbound in view.inbounds} | {outbound.source for outbound in view.outbounds}
    ):
        if svid := svids.get(service):
            memo.add(("svid", service), svid, partial(_svid, service, svid))
    return Translated(memo.common, memo.pieces, _calls(view, settings, memo.before.calls))


def translate_rules(view: ProxyView, settings: Settings, previous: Translated) -> Resources:
    """Only what decides calls, and only where it changed since `previous`: it can be on its way before all the rest.

    And so can ways that lead to less than before: they go ahead of the endpoints that are lost.
    """
    memo = _Memo(previous, _common(view, settings))
    _add_rules(memo, view)
    rules: dict[Key, bytes] = {}
    for name, (_, built) in memo.pieces.items():
        held = previous.pieces[name][1] if name in previous.pieces else {}
        rules |= {key: value for key, value in built.items() if key in held and held[key] != value}
    if len(previous.calls) == len(view.outbounds):
        for outbound in leaving((cause for cause, _ in previous.calls), view.outbounds):
            rules |= _serialised(_ways(outbound, view, settings))
            rules |= {
                key: value for each in view.gateways for key, value in _left(each, outbound, view, previous).items()
            }
    return rules


def difference(old: Translated, new: Translated) -> tuple[dict[Key, bytes], list[Key]]:
    """(what is new or different, what is gone), at the price of the pieces that are not the same."""
    if old.pieces.keys() == new.pieces.keys() and len(old.calls) == len(new.calls):
        pairs = [(old.pieces[name][1], built) for name, (_, built) in new.pieces.items()]
        pairs += [(before, after) for (_, before), (_, after) in zip(old.calls, new.calls, strict=True)]
        moved = [(before, after) for before, after in pairs if before is not after]
        # With the same names in each piece nothing came or went, whichever pieces share a name.
        if all(before.keys() == after.keys() for before, after in moved):
            return {key: after[key] for before, after in moved for key in after if after[key] != before[key]}, []
    held, wanted = old.resources, new.resources
    changed = {key: value for key, value in wanted.items() if held.get(key) != value}
    return changed, [key for key in held if key not in wanted]


def _common(view: ProxyView, settings: Settings) -> object:
    return (view.trust_domain, view.domains, view.address, view.access_log, view.tracing, settings)


def _place(inbound: Inbound) -> tuple[str, str]:
    return (inbound.service, inbound.instance)


def _by_port(inbound: Inbound) -> tuple[int, str, str]:
    return (inbound.mtls_port, inbound.service, inbound.instance)


def _listened(inbound: Inbound) -> Hashable:
    """What the listener depends on: everything but the rules, which travel by ECDS and leave the listener still."""
    closed = inbound.protocol == "tcp" and not inbound.default_open
    filters = (inbound.admission.rate_limit is not None, inbound.admission.adaptive_concurrency)
    seen = (inbound.access_log, inbound.sampling)
    fixed = (inbound.service, inbound.instance, inbound.protocol, *filters, *seen)
    return (*fixed, inbound.chains, inbound.byte_chains, inbound.default_cut, closed, inbound.shut_out)


def _add_rules(memo: _Memo, view: ProxyView) -> None:
    """One filter for all instances of a service: they have the same guard."""
    for service, inbound in {inbound.service: inbound for inbound in view.inbounds}.items():
        plain = any(each.plain_port for each in view.inbounds if each.service == service)
        cause = (inbound.guard, inbound.protocol, plain, inbound.admission, inbound.data_path)
        memo.add(("rules", service), cause, partial(_rules, inbound, view, plain))
    for egress in view.egresses:
        memo.add(("judged", egress.source, egress.upstream), (egress.guard, egress.external), partial(_judged, egress))


def _add_egresses(memo: _Memo, view: ProxyView, settings: Settings) -> None:
    for egress in view.egresses:
        if egress.listened:
            place = ("egress", local_listener_name(egress))
            memo.add(place, _led_outside(egress), partial(_egress, egress, view, settings))
        memo.add(("external", egress.upstream), egress.external, partial(_external, egress.external, settings))


def _add_gateways(
    memo: _Memo,
    view: ProxyView,
    settings: Settings,
    key_pairs: Mapping[str, KeyPair],
    challenges: Mapping[str, str],
) -> None:
    for gateway in view.gateways:
        places = [each.place for each in gateway.certificates]
        there = tuple(place for place in dict.fromkeys(places) if place in key_pairs)
        for place in there:
            memo.add(("key pair", place), key_pairs[place], partial(_key_pair, place, key_pairs[place]))
        listened = (gateway.name, gateway.listeners, there)
        memo.add(("gateway", gateway.name), listened, partial(_gateway, gateway, there, view, settings))
        calls = calls_of_gateway(gateway, view)
        asked = challenges if gateway.orders else NO_CHALLENGES
        cause = (gateway.routes, calls, asked)
        memo.add(("gateway routes", gateway.name), cause, partial(_gateway_routes, gateway, calls, asked))


def _gateway(gateway: Gateway, there: tuple[str, ...], view: ProxyView, settings: Settings) -> _Named:
    for listener in gateway_listeners(gateway, there, view, settings):
        yield LDS, listener.name, listener


def _gateway_routes(gateway: Gateway, calls: tuple[Outbound, ...], challenges: Mapping[str, str]) -> _Named:
    yield RDS, gateway_name(gateway), gateway_routes(gateway, calls, challenges)


def _left(gateway: Gateway, leaving_: Outbound, view: ProxyView, previous: Translated) -> Resources:
    """Its routes, where one of those whom it calls leads to less."""
    calls = calls_of_gateway(gateway, view) if leaving_.source == gateway.name else ()
    cause, _ = previous.pieces.get(("gateway routes", gateway.name), (None, None))
    challenges = cause[2] if isinstance(cause, tuple) else NO_CHALLENGES
    return _serialised(_gateway_routes(gateway, calls, challenges)) if calls else {}


def _key_pair(place: str, pair: KeyPair) -> _Named:
    yield SDS, key_pair_name(place), key_pair_secret(place, pair)


def _collector(tracing: Tracing | None) -> _Named:
    yield CDS, COLLECTOR, collector_cluster(tracing)


def _rules(inbound: Inbound, view: ProxyView, plain: bool) -> _Named:
    yield ECDS, rbac_name(inbound.service), rbac_filter(inbound, view.domains)
    if plain:
        yield ECDS, plain_rbac_name(inbound.service), rbac_filter(inbound, view.domains, plain=True)
    if inbound.data_path:
        yield ECDS, bytes_rbac_name(inbound.service), bytes_rbac_filter(inbound, view.domains)
    if config := concurrency_config(inbound):
        yield ECDS, config.name, config


def _app(inbound: Inbound) -> _Named:
    yield CDS, app_cluster_name(inbound), app_cluster(inbound)


def _listener(members: tuple[Inbound, ...], view: ProxyView, settings: Settings) -> _Named:
    yield LDS, inbound_listener_name(members[0].mtls_port), inbound_listener(members, view, settings)


def _counted(inbound: Inbound) -> _Named:
    yield RDS, inbound_routes_name(inbound), inbound_routes(inbound)


def _plain(inbound: Inbound, view: ProxyView, settings: Settings) -> _Named:
    yield LDS, plain_listener_name(inbound), plain_listener(inbound, view, settings)


def _calls(view: ProxyView, settings: Settings, before: tuple[Piece, ...]) -> tuple[Piece, ...]:
    """One piece for each outbound. Their order is almost always as before, so they are compared place by place."""
    held: Iterable[Piece | None] = before
    if len(before) != len(view.outbounds):
        by_name = {local_listener_name(piece[0]): piece for piece in before if isinstance(piece[0], Outbound)}
        held = [by_name.get(local_listener_name(outbound)) for outbound in view.outbounds]
    return tuple(
        piece if piece and piece[0] is outbound else _call(outbound, piece, view, settings)
        for piece, outbound in zip(held, view.outbounds, strict=True)
    )


def _call(outbound: Outbound, held: Piece | None, view: ProxyView, settings: Settings) -> Piece:
    """The outbound's piece. Where its endpoints alone are others, all else is taken from the one before."""
    endpoints = (EDS, upstream_name(outbound), load_assignment(outbound))
    still = not outbound.plain_endpoints  # where some are plain, the routes say how many there are of which
    if still and held and isinstance(held[0], Outbound) and replace(held[0], endpoints=outbound.endpoints) == outbound:
        return outbound, {**held[1], **_serialised([endpoints])}
    return outbound, _serialised([endpoints, *_call_once(outbound, view, settings)])


def _call_once(outbound: Outbound, view: ProxyView, settings: Settings) -> _Named:
    """What an endpoint that comes or goes leaves as it is."""
    for reached in (outbound, *outbound.beyond):
        yield CDS, upstream_name(reached), upstream_cluster(reached, view.trust_domain, view.domains)
        if reached.plain_endpoints and reached.protocol in HTTP_PROTOCOLS:
            yield CDS, plain_name(reached), plain_cluster(reached, view.domains)
            yield EDS, plain_name(reached), plain_assignment(reached)
    for reached in outbound.beyond:
        yield EDS, upstream_name(reached), load_assignment(reached)
    for cluster in failover_clusters(outbound):
        yield CDS, cluster.name, cluster
    if outbound.listened:
        yield LDS, local_listener_name(outbound), outbound_listener(outbound, view, settings)
    yield from _ways(outbound, view, settings)


def _ways(outbound: Outbound, view: ProxyView, settings: Settings) -> _Named:
    if routes := outbound_routes(outbound):
        yield RDS, upstream_name(outbound), routes
    else:
        yield ECDS, upstream_name(outbound), outbound_proxy(outbound, view, settings)


def _capture(captured: Captured, calls: tuple[Outbound | Egress, ...], view: ProxyView, settings: Settings) -> _Named:
    yield LDS, capture_listener_name(captured), capture_listener(captured, calls, view, settings)


def _led_outside(egress: Egress) -> Hashable:
    """What the listener depends on: everything but the rules."""
    place = (egress.local_address, egress.local_port, egress.local_socket, egress.socket_mode)
    return (*place, egress.external, egress.cut, egress.closed)


def _judged(egress: Egress) -> _Named:
    rules = egress_rbac(egress)
    yield ECDS, rules.name, rules


def _egress(egress: Egress, view: ProxyView, settings: Settings) -> _Named:
    yield LDS, local_listener_name(egress), egress_listener(egress, view, settings)


def _external(external: External, settings: Settings) -> _Named:
    for name, hosts in external_names(external).items():
        yield CDS, name, external_cluster(name, hosts, external)
    if external.tls.mode == "originate":
        roots = external_roots(external, settings)
        yield SDS, roots.name, roots


def _svid(service: str, svid: Svid) -> _Named:
    yield SDS, svid_name(service), svid_secret(service, svid)


class _Memo:
    """Builds a piece's resources, unless they were built from the same cause before."""

    def __init__(self, previous: Translated | None, common: object) -> None:
        self.common = common
        self.before = previous if previous and previous.common == common else Translated()
        self.pieces: dict[Hashable, Piece] = {}

    def add(self, key: Hashable, cause: object, build: Callable[[], _Named]) -> None:
        """Take the piece from before, or build it."""
        held = self.before.pieces.get(key)
        self.pieces[key] = held if held and held[0] == cause else (cause, _serialised(build()))


def _serialised(named: _Named) -> dict[Key, bytes]:
    return {(kind, name): message.SerializeToString(deterministic=True) for kind, name, message in named}
