"""Access logs: one JSON line a logged request, without anything secret, and safe against what callers send."""

from __future__ import annotations

from collections.abc import Iterator

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog, AccessLogFilter, ComparisonFilter
from envoy.extensions.access_loggers.file.v3.file_pb2 import FileAccessLog
from envoy.extensions.access_loggers.filters.cel.v3.cel_pb2 import ExpressionFilter

from meshagent.model.defaults import AccessLog as AccessLogPolicy
from meshagent.model.view import Outbound
from meshagent.translate.settings import Settings, pack

_OUTBOUND, GATEWAY = "outbound to ", "gateway"
MARKED = "meshagent.log"  # in the metadata of routes
_COMMON = {
    "time": "%START_TIME%",
    "source": "%DOWNSTREAM_PEER_URI_SAN%",
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
_TRACED = {"trace_id": "%TRACE_ID%"}
_TCP = {"details": "%CONNECTION_TERMINATION_DETAILS%"}


def access_log(
    log: AccessLog,
    policy: AccessLogPolicy,
    settings: Settings,
    *,
    http: bool,
    service: str,
    side: str,
    traced: bool = False,
) -> None:
    """Fill in a file log for one side of a service: "inbound", "outbound to SERVICE", "external NAME" or "gateway"."""
    log.name = "envoy.access_loggers.file"
    if policy.only == "errors":
        _only_errors(log, at_least=0 if not http else 500 if side.startswith((_OUTBOUND, GATEWAY)) else 400)
        if http and policy.slower_than is not None:
            slow = log.filter.or_filter.filters.add().duration_filter.comparison
            slow.op = ComparisonFilter.GE
            slow.value.default_value = round(policy.slower_than.total_seconds() * 1000)
            slow.value.runtime_key = "meshagent.access_log_ms"
    line = FileAccessLog(path=settings.access_log_path)
    fields = line.log_format.json_format.fields
    told = {**_COMMON, **(_HTTP if http else _TCP), **(_TRACED if traced else {}), "service": service, "side": side}
    for name, value in told.items():
        fields[name].string_value = value
    pack(log.typed_config, line)


def outbound_logs(outbound: Outbound, common: AccessLogPolicy, settings: Settings) -> Iterator[AccessLog]:
    """The logs of an HTTP upstream: one for each thing that rules ask for by themselves, and one for all other requests."""
    whole = outbound.traffic.access_log or common
    apart = {log_mark(asked): asked for way in outbound.ways if (asked := way.rule.access_log)}
    for mark, policy in ((None, whole), *sorted(apart.items())):
        if policy.only == "none":
            continue
        log = AccessLog()
        side = f"{_OUTBOUND}{outbound.upstream}"
        access_log(log, policy, settings, http=True, service=outbound.source, side=side, traced=outbound.traced)
        if apart:
            _of_rules(log, mark)
        yield log


def log_mark(policy: AccessLogPolicy) -> str:
    """What the routes of rules that ask for this log are marked with."""
    return policy.model_dump_json(exclude_none=True)


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
