"""translate(view, svids, settings) -> Translated: every resource of one proxy, by type and name, as deterministic bytes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby

from google.protobuf.message import Message

from meshagent.model.identity import Svid
from meshagent.model.view import Inbound, Outbound, ProxyView, Svids
from meshagent.translate.clusters import app_cluster, app_cluster_name, load_assignment, upstream_cluster, upstream_name
from meshagent.translate.inbound import inbound_listener, inbound_listener_name, plain_listener, plain_listener_name
from meshagent.translate.outbound import outbound_listener, outbound_listener_name, outbound_routes
from meshagent.translate.rbac import plain_rbac_name, rbac_filter, rbac_name
from meshagent.translate.secrets import roots_secret, svid_name, svid_secret
from meshagent.translate.settings import ROOTS, Settings
from meshagent.xds.types import CDS, ECDS, EDS, LDS, RDS, SDS

Key = tuple[str, str]  # type URL, name
Resources = Mapping[Key, bytes]
_Named = Iterable[tuple[str, str, Message]]


@dataclass(frozen=True, slots=True)
class Translated:
    """The resources, and the pieces of the view that they came from, so that the next translation reuses them."""

    resources: Resources = field(default_factory=dict)
    pieces: Mapping[Hashable, tuple[object, Resources]] = field(default_factory=dict)


def translate(view: ProxyView, svids: Svids, settings: Settings, previous: Translated | None = None) -> Translated:
    """All resources of the proxy. What depends on nothing that changed since `previous` is taken from it."""
    memo = _Memo(previous, (view.trust_domain, view.address, view.access_log, settings))
    _add_rules(memo, view)
    for inbound in view.inbounds:
        app = (inbound.service, inbound.instance, inbound.protocol, inbound.app_address, inbound.app_port)
        memo.add(("app", inbound.service, inbound.instance), app, partial(_app, inbound))
        if inbound.plain_port:
            plain = ("plain", inbound.service, inbound.instance)
            memo.add(plain, (app, inbound.plain_port), partial(_plain, inbound, view, settings))
    for port, group in groupby(sorted(view.inbounds, key=_by_port), key=lambda inbound: inbound.mtls_port):
        members = tuple(group)
        memo.add(("listen", port), tuple(map(_listened, members)), partial(_listener, members, view, settings))
    for outbound in view.outbounds:
        memo.add(("out", outbound_listener_name(outbound)), outbound, partial(_outbound, outbound, view, settings))
    memo.add("roots", view.bundle, lambda: [(SDS, ROOTS, roots_secret(view))])
    for service in sorted(
        {inbound.service for inbound in view.inbounds} | {outbound.source for outbound in view.outbounds}
    ):
        if svid := svids.get(service):
            memo.add(("svid", service), svid, partial(_svid, service, svid))
    return memo.done()


def translate_rules(view: ProxyView, settings: Settings, previous: Translated) -> Resources:
    """Only what decides calls, and only where it changed since `previous`: it can be on its way before all the rest."""
    memo = _Memo(previous, (view.trust_domain, view.address, view.access_log, settings))
    _add_rules(memo, view)
    held = previous.resources
    return {key: value for key, value in memo.done().resources.items() if key in held and held[key] != value}


def _by_port(inbound: Inbound) -> tuple[int, str, str]:
    return (inbound.mtls_port, inbound.service, inbound.instance)


def _listened(inbound: Inbound) -> Hashable:
    """What the listener depends on: everything but the rules, which travel by ECDS and leave the listener still."""
    closed = inbound.protocol == "tcp" and not inbound.default_open
    fixed = (inbound.service, inbound.instance, inbound.protocol)
    return (*fixed, inbound.chains, inbound.default_cut, closed, inbound.shut_out)


def _add_rules(memo: _Memo, view: ProxyView) -> None:
    for inbound in view.inbounds:
        plain = bool(inbound.plain_port)
        cause = (inbound.guard, inbound.protocol, plain)
        memo.add(("rules", inbound.service, inbound.instance), cause, partial(_rules, inbound, view, plain))


def _rules(inbound: Inbound, view: ProxyView, plain: bool) -> _Named:
    yield ECDS, rbac_name(inbound.service), rbac_filter(inbound, view.trust_domain)
    if plain:
        yield ECDS, plain_rbac_name(inbound.service), rbac_filter(inbound, view.trust_domain, plain=True)


def _app(inbound: Inbound) -> _Named:
    yield CDS, app_cluster_name(inbound), app_cluster(inbound)


def _listener(members: tuple[Inbound, ...], view: ProxyView, settings: Settings) -> _Named:
    yield LDS, inbound_listener_name(members[0].mtls_port), inbound_listener(members, view, settings)


def _plain(inbound: Inbound, view: ProxyView, settings: Settings) -> _Named:
    yield LDS, plain_listener_name(inbound), plain_listener(inbound, view, settings)


def _outbound(outbound: Outbound, view: ProxyView, settings: Settings) -> _Named:
    yield CDS, upstream_name(outbound), upstream_cluster(outbound, view.trust_domain)
    yield EDS, upstream_name(outbound), load_assignment(outbound)
    yield LDS, outbound_listener_name(outbound), outbound_listener(outbound, view, settings)
    if routes := outbound_routes(outbound):
        yield RDS, upstream_name(outbound), routes


def _svid(service: str, svid: Svid) -> _Named:
    yield SDS, svid_name(service), svid_secret(service, svid)


class _Memo:
    """Builds a piece's resources, unless they were built from the same cause before."""

    def __init__(self, previous: Translated | None, common: object) -> None:
        self._before = previous.pieces if previous else {}
        self._common = common
        self._pieces: dict[Hashable, tuple[object, Resources]] = {}

    def add(self, key: Hashable, cause: object, build: Callable[[], _Named]) -> None:
        whole = (cause, self._common)
        before = self._before.get(key)
        if before and before[0] == whole:
            self._pieces[key] = before
        else:
            built = {(kind, name): message.SerializeToString(deterministic=True) for kind, name, message in build()}
            self._pieces[key] = (whole, built)

    def done(self) -> Translated:
        resources: dict[Key, bytes] = {}
        for _, built in self._pieces.values():
            resources.update(built)
        return Translated(resources, self._pieces)
