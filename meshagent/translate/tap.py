"""The place in each listener where live requests can be watched. It is off: no request passes it unless somebody watches.

A gRPC log behind a runtime key, so that switching it on changes no listener and drains nothing. All listeners of one side of
a service share one logger, which has no timer of its own (3600 s) and holds one entry at most: measured on Envoy 1.40, a
listener more costs 2 KB, and with a larger buffer, or none, entries wait in memory while the agent does not read (ADR 0027).
"""

from __future__ import annotations

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog
from envoy.config.core.v3.config_source_pb2 import ApiVersion
from envoy.extensions.access_loggers.grpc.v3.als_pb2 import (
    CommonGrpcAccessLogConfig,
    HttpGrpcAccessLogConfig,
    TcpGrpcAccessLogConfig,
)

from meshagent.model.tapping import TAP_CLUSTER, tap_key, tap_name
from meshagent.translate.replies import REFUSED, TICKET_HEADER
from meshagent.translate.settings import pack

_NEVER_SECONDS = 3600
_ONE_ENTRY = 1  # byte; with 0 Envoy keeps entries without a bound


def tap(service: str, side: str, *, http: bool) -> AccessLog:
    """The place for one side (inbound, outbound, external or gateway) of a service."""
    log = AccessLog(name="tap")
    log.filter.runtime_filter.runtime_key = tap_key(service)
    log.filter.runtime_filter.percent_sampled.SetInParent()  # 0 of 100
    log.filter.runtime_filter.use_independent_randomness = True  # else each request's id is parsed for it (ADR 0032)
    common = CommonGrpcAccessLogConfig(log_name=tap_name(side, service), transport_api_version=ApiVersion.V3)
    common.grpc_service.envoy_grpc.cluster_name = TAP_CLUSTER
    common.buffer_flush_interval.FromSeconds(_NEVER_SECONDS)
    common.buffer_size_bytes.value = _ONE_ENTRY
    if http:
        told = (REFUSED, TICKET_HEADER)
        pack(log.typed_config, HttpGrpcAccessLogConfig(common_config=common, additional_response_headers_to_log=told))
    else:
        pack(log.typed_config, TcpGrpcAccessLogConfig(common_config=common))
    return log
