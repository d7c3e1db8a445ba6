"""Where access logs go besides the agent's own: a file, the agent's stdout (by a file that it prints), or OTLP.

Which file is the host's to say and not the policy's: who may write policy does not choose files that a proxy writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog
from envoy.config.core.v3.config_source_pb2 import ApiVersion
from envoy.extensions.access_loggers.file.v3.file_pb2 import FileAccessLog
from envoy.extensions.access_loggers.open_telemetry.v3.logs_service_pb2 import OpenTelemetryAccessLogConfig

from meshagent.model.defaults import LOG_FILES
from meshagent.model.defaults import AccessLog as AccessLogPolicy
from meshagent.translate.settings import Settings, pack
from meshagent.translate.tracing import COLLECTOR


def to_file(log: AccessLog, path: str, policy: AccessLogPolicy, fields: Mapping[str, str]) -> None:
    """Lines appended to a file, as the policy forms them, else as JSON with these fields."""
    log.name = "envoy.access_loggers.file"
    line = FileAccessLog(path=path)
    if policy.format is not None:
        line.log_format.text_format_source.inline_string = policy.format.removesuffix("\n") + "\n"
    else:
        for name, value in (policy.fields or fields).items():
            line.log_format.json_format.fields[name].string_value = value
    pack(log.typed_config, line)


def to_sink(
    log: AccessLog, policy: AccessLogPolicy, fields: Mapping[str, str], service: str, settings: Settings
) -> None:
    """What the policy names beside the agent's own log."""
    if policy.to == "otlp":
        _to_collector(log, policy, fields, service)
    else:
        path = PurePosixPath(settings.access_log_path).with_name(LOG_FILES[policy.to])
        to_file(log, str(path), policy, fields)


def _to_collector(log: AccessLog, policy: AccessLogPolicy, fields: Mapping[str, str], service: str) -> None:
    log.name = "envoy.access_loggers.open_telemetry"
    config = OpenTelemetryAccessLogConfig(disable_builtin_labels=True)
    config.common_config.log_name = "meshagent"
    config.common_config.transport_api_version = ApiVersion.V3
    config.common_config.grpc_service.envoy_grpc.cluster_name = COLLECTOR
    name = config.resource_attributes.values.add(key="service.name")
    name.value.string_value = service
    if policy.format is not None:
        config.body.string_value = policy.format.removesuffix("\n")
    else:
        for key, value in sorted((policy.fields or fields).items()):
            config.attributes.values.add(key=key).value.string_value = value
    pack(log.typed_config, config)
