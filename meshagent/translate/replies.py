"""What a proxy answers itself: each refusal says its code and a ticket in headers, and in a small body what to do.

No rule is told to anybody. Mappers run for local replies alone, so that a request which is answered by its app pays nothing.
The routes' own answers (`respond`, `redirect`) are local replies too, without a response flag: what is said to callers goes
by flags, and leaves them as they are.
"""

from __future__ import annotations

from envoy.config.accesslog.v3.accesslog_pb2 import ComparisonFilter
from envoy.extensions.access_loggers.filters.cel.v3.cel_pb2 import ExpressionFilter
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    ResponseMapper,
)

from meshagent.model.reasons import flags_of, reason
from meshagent.translate.retries import UNREACHED
from meshagent.translate.settings import pack

REFUSED, TICKET_HEADER = "x-mesh-refused", "x-mesh-ticket"
# When the stream began, in microseconds, and its connection: the same in a local reply and in the log (measured on 1.40),
# with or without a request id, which callers could choose themselves and send twice.
TICKET = "%START_TIME(%s%6f)%-%CONNECTION_ID%"
_CALLER = "%DOWNSTREAM_PEER_URI_SAN%"
_TLS_FAILED = (
    "has(upstream.transport_failure_reason) && upstream.transport_failure_reason.contains('TLS_error')"
    " && !upstream.transport_failure_reason.contains('system library')"  # a reset in the handshake, see model/reasons.py
)
# Each costs Envoy 2.4 kB a listener (measured), so there are few: what is rare is told by the log alone.
_OF_CALLERS = ("no-endpoints", "connect", "timeout", "overflow", "fault", "broken")
_OUTSIDE = (*_OF_CALLERS, "no-route")
_ABROAD = ("unresolved", *_OF_CALLERS[1:])
TOLD = frozenset((*_OUTSIDE, *_ABROAD, "tls", "intention", "rate-limit", "crowded", "app-down", "app-broke"))
"""What may stand in `x-mesh-refused`."""


def explain_refusals(manager: HttpConnectionManager, service: str, source: str = "") -> None:
    """A refused call says who was refused by whom and where to ask, and tells strangers no rule.

    Without a `source`, it is whoever the certificate says.
    """
    mapper = _by_status(manager, 403, "meshagent.refused_status")
    error = f"refused: no intention in force lets the caller make this call to {service}"
    next_step = f"meshagent explain {source or 'SOURCE'} {service} METHOD PATH"
    _explain(mapper, "intention", error, source or _CALLER, service, next_step)


def explain_limits(manager: HttpConnectionManager, service: str) -> None:
    """A request beyond the rate says so. Only what the proxy itself answers is meant: an app's own 429 stays as it is."""
    mapper = _by_status(manager, 429, "meshagent.limited_status")
    _refuse(mapper, "rate-limit", service, f"more requests than {service} takes (rate_limit of its service document)")


def explain_crowding(manager: HttpConnectionManager, service: str) -> None:
    """A request beyond what adaptive concurrency lets in: the one local 503 there without a flag."""
    mapper = _by_status(manager, 503, "meshagent.crowded_status")
    why = f"more requests at once than {service} bears now (adaptive_concurrency of its service document)"
    _refuse(mapper, "crowded", service, why)


def tell_unreached(manager: HttpConnectionManager, *, among_proxies: bool) -> None:
    """No connection to the app: it never saw the request, so callers' proxies may try another instance.

    And where the app ended one before its answer was whole. `among_proxies`: callers' proxies are told, and they take it
    away again, so no app sees it and passes it on as its own.
    """
    mapper = _by_flags(manager, ("UF",))
    if among_proxies:
        header = mapper.headers_to_add.add().header
        header.key, header.value = UNREACHED, "1"
    _say(mapper, "app-down")
    _say(_by_flags(manager, flags_of("app-broke")), "app-broke")


def explain_failures(manager: HttpConnectionManager, caller: str, destination: str, *, outside: bool = False) -> None:
    """What a caller's own proxy could not do says why. `outside`: the destination is a name outside the mesh."""
    failed = manager.local_reply_config.mappers.add()
    failed.filter.extension_filter.name = "envoy.access_loggers.extension_filters.cel"
    pack(failed.filter.extension_filter.typed_config, ExpressionFilter(expression=_TLS_FAILED))
    _fail(failed, "tls", caller, destination)
    for code in _ABROAD if outside else _OF_CALLERS:
        _fail(_by_flags(manager, flags_of(code)), code, caller, destination)


def tell_failures(manager: HttpConnectionManager) -> None:
    """The same for whoever is outside a gateway: codes and tickets, and Envoy's short text as it is."""
    for code in _OUTSIDE:
        _say(_by_flags(manager, flags_of(code)), code)


def _fail(mapper: ResponseMapper, code: str, caller: str, destination: str) -> None:
    next_step = "meshagent explain TICKET, with this ticket, on this host"
    _explain(mapper, code, f"failed: {reason(code).words}", caller, destination, next_step)


def _refuse(mapper: ResponseMapper, code: str, service: str, why: str) -> None:
    """By a setting of the service's document."""
    _explain(mapper, code, f"refused: {why}", _CALLER, service, f"meshagent policy get service {service}")


def _say(mapper: ResponseMapper, code: str) -> None:
    header = mapper.headers_to_add.add().header
    header.key, header.value = REFUSED, code
    header = mapper.headers_to_add.add().header
    header.key, header.value = TICKET_HEADER, TICKET


def _explain(mapper: ResponseMapper, code: str, error: str, caller: str, destination: str, next_step: str) -> None:
    """The code and a ticket in headers, and all of it in the body."""
    _say(mapper, code)
    told = {"error": error, "caller": caller, "destination": destination, "next_step": next_step, "ticket": TICKET}
    for name, value in told.items():
        mapper.body_format_override.json_format.fields[name].string_value = value


def _by_status(manager: HttpConnectionManager, status: int, key: str) -> ResponseMapper:
    mapper = manager.local_reply_config.mappers.add()
    comparison = mapper.filter.status_code_filter.comparison
    comparison.op = ComparisonFilter.EQ
    comparison.value.default_value = status
    comparison.value.runtime_key = key
    return mapper


def _by_flags(manager: HttpConnectionManager, flags: tuple[str, ...]) -> ResponseMapper:
    mapper = manager.local_reply_config.mappers.add()
    mapper.filter.response_flag_filter.flags.extend(flags)
    return mapper
