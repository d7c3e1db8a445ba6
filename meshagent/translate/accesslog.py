"""Access logs: one JSON line a logged request, without anything secret, and safe against what callers send."""

from __future__ import annotations

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog, ComparisonFilter
from envoy.extensions.access_loggers.file.v3.file_pb2 import FileAccessLog

from meshagent.model.mesh import AccessLog as AccessLogPolicy
from meshagent.translate.settings import Settings, pack

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
_TCP = {"details": "%CONNECTION_TERMINATION_DETAILS%"}


def access_log(
    log: AccessLog, policy: AccessLogPolicy, settings: Settings, *, http: bool, service: str, side: str
) -> None:
    """Fill in a file log for one side ("inbound" or "outbound") of a service."""
    log.name = "envoy.access_loggers.file"
    if policy.only == "errors":
        _only_errors(log, at_least=0 if not http else 400 if side == "inbound" else 500)
        if http and policy.slower_than is not None:
            slow = log.filter.or_filter.filters.add().duration_filter.comparison
            slow.op = ComparisonFilter.GE
            slow.value.default_value = round(policy.slower_than.total_seconds() * 1000)
            slow.value.runtime_key = "meshagent.access_log_ms"
    line = FileAccessLog(path=settings.access_log_path)
    fields = line.log_format.json_format.fields
    for name, value in {**_COMMON, **(_HTTP if http else _TCP), "service": service, "side": side}.items():
        fields[name].string_value = value
    pack(log.typed_config, line)


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
