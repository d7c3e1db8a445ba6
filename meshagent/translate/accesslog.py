"""Access logs: one JSON line a logged request, without anything secret, and safe against what callers send."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog, AccessLogFilter, ComparisonFilter
from envoy.extensions.access_loggers.filters.cel.v3.cel_pb2 import ExpressionFilter

from meshagent.model.defaults import AccessLog as AccessLogPolicy
from meshagent.model.names import spiffe_id
from meshagent.model.view import Outbound, ProxyView
from meshagent.translate.doubts import DOUBTED, doubted_requests
from meshagent.translate.replies import REFUSED, TICKET, TICKET_HEADER
from meshagent.translate.settings import Settings, pack
from meshagent.translate.sinks import to_file, to_sink
from meshagent.translate.tap import tap

OUTBOUND, EXTERNAL, GATEWAY, INBOUND = "outbound to ", "external ", "gateway", "inbound"
MARKED = "meshagent.log"  # in the metadata of routes
_COMMON = {
    "time": "%START_TIME%",
    "ticket": TICKET,
    "flags": "%RESPONSE_FLAGS%",
    "duration_ms": "%DURATION%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "remote": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "server_name": "%REQUESTED_SERVER_NAME%",
}
_HTTP = {
    "status": "%RESPONSE_CODE%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "method": "%REQ(:METHOD)%",
    "path": "%PATH(NQ)%",
    "authority": "%REQ(:AUTHORITY)%",
    "request_id": "%REQ(X-REQUEST-ID)%",
}
_PEER = "%DOWNSTREAM_PEER_URI_SAN%"
_TRACED = {"trace_id": "%TRACE_ID%"}
_TCP = {"details": "%CONNECTION_TERMINATION_DETAILS%"}
_CALLING = {
    "destination": "%UPSTREAM_PEER_URI_SAN%",
    "instance": "%UPSTREAM_HOST%",
    "subset": "%UPSTREAM_METADATA(envoy.lb:subset)%",
    "failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
}
_ANSWERED = {"refused": f"%RESP({REFUSED})%", "far_ticket": f"%RESP({TICKET_HEADER})%", "route": "%ROUTE_NAME%"}
# The policy that let it in, as the filter for it names it; a refusal comes from none, since all of them allow (rbac.py).
_JUDGED = {"rule": "%DYNAMIC_METADATA(envoy.filters.{kind}.rbac:enforced_effective_policy_id)%"}


@dataclass(frozen=True, slots=True)
class Line:
    """What is told of each logged call: `side` is INBOUND, GATEWAY, or OUTBOUND or EXTERNAL with what is called.

    `service` is whose proxy logs, `domain` its trust domain.
    """

    service: str
    side: str
    domain: str
    http: bool
    traced: bool = False

    @property
    def judges(self) -> bool:
        """Whether requests are judged here, and in shadow too."""
        return self.http and (self.side == INBOUND or self.side.startswith(EXTERNAL))

    @property
    def fields(self) -> dict[str, str]:
        """By name, in Envoy's words."""
        own, inbound = spiffe_id(self.domain, self.service), self.side == INBOUND
        told = {**_COMMON, **(_HTTP if self.http else _TCP), **(_TRACED if self.traced else {})}
        told |= DOUBTED if self.judges else {}
        told |= {"protocol": "%PROTOCOL%"} if self.side == GATEWAY else {}
        if self.side != GATEWAY and not self.side.startswith(OUTBOUND):
            told |= {name: text.format(kind="http" if self.http else "network") for name, text in _JUDGED.items()}
        if not inbound:
            told |= {**_CALLING, **(_ANSWERED if self.http else {})}
        told |= {"source": _PEER, "destination": own} if inbound else {"source": own}
        return {**told, "service": self.service, "side": self.side}


def logs(policy: AccessLogPolicy, line: Line, settings: Settings) -> Iterator[AccessLog]:
    """What is logged of one side of a service: nothing, or lines of the agent's own; and the place of a tap, that is off."""
    yield from written(policy, line, settings)
    yield tap_of(line)


def tap_of(line: Line) -> AccessLog:
    """Where the same can be watched live."""
    return tap(line.service, line.side.partition(" ")[0], http=line.http)


def written(policy: AccessLogPolicy, line: Line, settings: Settings) -> Iterator[AccessLog]:
    """What goes into the agent's own log, at least what failed unless nothing is to be logged; and where else it goes."""
    if policy.only == "none" and not line.judges:
        return
    own = policy if policy.to == "agent" else AccessLogPolicy()
    log = AccessLog()
    _filter(log, own, line)
    to_file(log, settings.access_log_path, own, line.fields)
    yield log
    if policy.to != "agent":
        other = AccessLog()
        _filter(other, policy, line)
        to_sink(other, policy, line.fields, line.service, settings)
        yield other


def handshakes(view: ProxyView, settings: Settings) -> Iterator[AccessLog]:
    """Of a listener for mutual TLS: the connections that came to no service, since TLS failed or nobody has that name."""
    if view.access_log.only == "none":
        return
    log = AccessLog()
    log.filter.or_filter.filters.add().response_flag_filter.flags.append("NR")
    failed = log.filter.or_filter.filters.add().extension_filter
    failed.name = "envoy.access_loggers.extension_filters.cel"
    pack(failed.typed_config, ExpressionFilter(expression="connection.transport_failure_reason != ''"))
    told = {**_COMMON, **_TCP, "claimed": _PEER, "failure": "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%"}
    to_file(log, settings.access_log_path, AccessLogPolicy(), {**told, "service": "", "side": INBOUND})
    yield log


def _filter(log: AccessLog, policy: AccessLogPolicy, line: Line) -> None:
    if policy.only == "none":
        log.filter.CopyFrom(doubted_requests())
    if policy.only != "errors":
        return
    _only_errors(log, at_least=0 if not line.http else 500 if line.side.startswith((OUTBOUND, GATEWAY)) else 400)
    if line.http and policy.slower_than is not None:
        slow = log.filter.or_filter.filters.add().duration_filter.comparison
        slow.op = ComparisonFilter.GE
        slow.value.default_value = round(policy.slower_than.total_seconds() * 1000)
        slow.value.runtime_key = "meshagent.access_log_ms"
    if line.judges:
        log.filter.or_filter.filters.append(doubted_requests())


def outbound_logs(outbound: Outbound, view: ProxyView, settings: Settings) -> Iterator[AccessLog]:
    """The logs of an HTTP upstream: one for each thing that rules ask for by themselves, and one for all other requests."""
    common = view.access_log
    whole = outbound.traffic.access_log or common
    apart = {log_mark(asked): asked for way in outbound.ways if (asked := way.rule.access_log)}
    line = Line(outbound.source, f"{OUTBOUND}{outbound.upstream}", view.trust_domain, True, outbound.traced)
    for mark, policy in ((None, whole), *sorted(apart.items())):
        for log in written(policy, line, settings):
            if apart:
                _of_rules(log, mark)
            yield log
    yield tap_of(line)


def log_mark(policy: AccessLogPolicy) -> str:
    """What the routes of rules that ask for this log are marked with."""
    if policy.to == "agent":
        return policy.model_dump_json(exclude_none=True, exclude={"to"})
    return sha256(policy.model_dump_json().encode()).hexdigest()[:16]  # it stands in an expression


def _of_rules(log: AccessLog, mark: str | None) -> None:
    """Narrow the log to requests of routes with the mark; None: to those without one, and to what met no route."""
    marked = f"has(xds.route_metadata) && '{MARKED}' in xds.route_metadata.filter_metadata"
    wanted = ExpressionFilter(expression=f"!({marked})")
    if mark is not None:
        wanted.expression = f"{marked} && xds.route_metadata.filter_metadata['{MARKED}']['log'] == '{mark}'"
    both = AccessLogFilter()
    both.and_filter.filters.add().extension_filter.name = "envoy.access_loggers.extension_filters.cel"
    pack(both.and_filter.filters[0].extension_filter.typed_config, wanted)
    if log.HasField("filter"):
        both.and_filter.filters.add().CopyFrom(log.filter)
        log.filter.CopyFrom(both)
    else:
        log.filter.CopyFrom(both.and_filter.filters[0])


def _only_errors(log: AccessLog, *, at_least: int) -> None:
    """A response flag (a connection that was refused or broke), or for HTTP a status from `at_least` on.

    A 4xx is logged where it arises: the caller's side would only say it once more.
    """
    flagged = log.filter.or_filter.filters.add() if at_least else log.filter
    flagged.response_flag_filter.SetInParent()
    if at_least:
        comparison = log.filter.or_filter.filters.add().status_code_filter.comparison
        comparison.op = ComparisonFilter.GE
        comparison.value.default_value = at_least
        comparison.value.runtime_key = "meshagent.access_log_status"
