"""What other meshes make their Envoys do, in the shape that their generated configurations have (facts of the corpus).

Each is a change of the hand-written configuration over Envoy's defaults. `consul`: HTTP/1.1 between the sidecars, a tracing
block at 0 %, the whole certificate in x-forwarded-client-cert, outlier detection, some twenty regexes that tag every statistic.
`istio`: HTTP/1.1, inspectors, gRPC statistics, empty fault and CORS filters, two metadata filters in the place of its own.
`kuma`: HTTP/2, network RBAC, retries, limits and all outlier detectors. What is not open in upstream Envoy is left out, which
is in favour of the other mesh.
"""

from __future__ import annotations

from typing import Any

_T = "type.googleapis.com/envoy."
_FILTERS = f"{_T}extensions.filters"
_RETRIES = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes,reset-before-request"
_TAG = r"^cluster\.(?:passthrough~)?((?:([^.]+)~)?(?:[^.]+\.)?[^.]+\.[^.]+\.(?:[^.]+\.)?[^.]+\.[^.]+\.[^.]+\.consul\.)"
_ISTIO_STATS = ("reporter=", "cluster_manager", "listener_manager", "server", "component", "istio")
Part = dict[str, Any]
SHAPES = ("consul", "istio", "kuma")


def shaped(kind: str, config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of `defaults`, made what this mesh would have made it."""
    outbound, inbound = config["static_resources"]["listeners"]
    mtls, _ = config["static_resources"]["clusters"]
    change = {"consul": _consul, "istio": _istio, "kuma": _kuma}[kind]
    return config | change(outbound, inbound, mtls)


def _consul(outbound: Part, inbound: Part, mtls: Part) -> Part:
    for listener in (outbound, inbound):
        _manager(listener)["tracing"] = {"random_sampling": {"value": 0}}
    shown = {"subject": True, "cert": True, "chain": True, "dns": True, "uri": True}
    _forward_certificate(inbound, "APPEND_FORWARD", shown)
    rule = {
        "header": "x-forwarded-client-cert",
        "on_header_present": {"metadata_namespace": "mesh", "key": "xfcc", "type": "STRING"},
    }
    _add_filter(inbound, "http.header_to_metadata.v3.Config", request_rules=[rule])
    mtls["outlier_detection"] = {}
    tags: list[Part] = [{"tag_name": f"consul.{number}", "regex": _TAG} for number in range(18)]
    tags.append({"tag_name": "local_cluster", "fixed_value": "web"})
    return {"stats_config": {"use_all_default_tags": True, "stats_tags": tags}}


def _istio(outbound: Part, inbound: Part, mtls: Part) -> Part:
    for listener in (outbound, inbound):
        _inspect(listener)
        manager = _manager(listener)
        manager |= {
            "normalize_path": True,
            "upgrade_configs": [{"upgrade_type": "websocket"}],
            "stream_idle_timeout": "0s",
        }
        _route(listener)["timeout"] = "0s"
        _add_filter(listener, "http.grpc_stats.v3.FilterConfig", emit_filter_state=True, stats_for_all_methods=False)
        _add_filter(listener, "http.fault.v3.HTTPFault")
        _add_filter(listener, "http.cors.v3.Cors")
        for number in range(2):
            value = {"ns": "default", "wl": "web", "app": "web", "rev": "v1", "cluster": "c1"}
            metadata = [{"metadata_namespace": f"mx{number}", "value": value}]
            _add_filter(listener, "http.set_metadata.v3.Config", metadata=metadata)
    _forward_certificate(inbound, "APPEND_FORWARD", {"subject": True, "dns": True, "uri": True})
    _retry(outbound)
    mtls["lb_policy"] = "LEAST_REQUEST"
    mtls["circuit_breakers"]["thresholds"][0]["track_remaining"] = True
    suffixes = [{"suffix": suffix} for suffix in ("rbac.allowed", "rbac.denied")]
    patterns = [*({"prefix": prefix} for prefix in _ISTIO_STATS), *suffixes]
    return {"stats_config": {"stats_matcher": {"inclusion_list": {"patterns": patterns}}}}


def _kuma(outbound: Part, inbound: Part, mtls: Part) -> Part:
    for listener in (outbound, inbound):
        _inspect(listener)
        _route(listener)["timeout"] = "0s"
        _manager(listener)["normalize_path"] = True
        _manager(listener)["internal_address_config"] = {
            "cidr_ranges": [{"address_prefix": "127.0.0.1", "prefix_len": 32}]
        }
    _forward_certificate(inbound, "SANITIZE_SET", {"uri": True})
    _network_rbac(inbound)
    _retry(outbound)
    mtls["outlier_detection"] = {
        "consecutive_5xx": 5,
        "consecutive_gateway_failure": 5,
        "consecutive_local_origin_failure": 5,
        "split_external_local_origin_errors": True,
        "success_rate_minimum_hosts": 5,
        "failure_percentage_threshold": 85,
    }
    return {}


def _manager(listener: dict[str, Any]) -> dict[str, Any]:
    manager: dict[str, Any] = listener["filter_chains"][0]["filters"][-1]["typed_config"]
    return manager


def _route(listener: dict[str, Any]) -> dict[str, Any]:
    route: dict[str, Any] = _manager(listener)["route_config"]["virtual_hosts"][0]["routes"][0]["route"]
    return route


def _add_filter(listener: dict[str, Any], kind: str, **settings: Any) -> None:
    """Before the router."""
    added = {"name": kind, "typed_config": {"@type": f"{_FILTERS}.{kind}", **settings}}
    _manager(listener)["http_filters"].insert(-1, added)


def _forward_certificate(listener: dict[str, Any], how: str, shown: dict[str, bool]) -> None:
    _manager(listener)["forward_client_cert_details"] = how
    _manager(listener)["set_current_client_cert_details"] = shown


def _inspect(listener: dict[str, Any]) -> None:
    kinds = ("tls_inspector.v3.TlsInspector", "http_inspector.v3.HttpInspector")
    listener["listener_filters"] = [
        {"name": kind, "typed_config": {"@type": f"{_FILTERS}.listener.{kind}"}} for kind in kinds
    ]


def _retry(listener: dict[str, Any]) -> None:
    previous = "extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    _route(listener)["retry_policy"] = {
        "retry_on": _RETRIES,
        "num_retries": 2,
        "retry_host_predicate": [{"name": "previous", "typed_config": {"@type": f"{_T}{previous}"}}],
        "host_selection_retry_max_attempts": 5,
        "retriable_status_codes": [503],
    }


def _network_rbac(listener: dict[str, Any]) -> None:
    """Kuma judges connections: the same rules, as a network filter."""
    filters = _manager(listener)["http_filters"]
    rules = next(each for each in filters if each["name"] == "rbac")["typed_config"]["rules"]
    _manager(listener)["http_filters"] = [each for each in filters if each["name"] != "rbac"]
    judged = {"@type": f"{_FILTERS}.network.rbac.v3.RBAC", "stat_prefix": "rbac", "rules": rules}
    listener["filter_chains"][0]["filters"].insert(0, {"name": "rbac", "typed_config": judged})


def haproxy(directory: str, mode: str, outbound: int, inbound: int, app: int) -> str:
    """Two hops of HAProxy with mTLS between them. `mode`: http or tcp."""
    return f"""\
global
  nbthread 1
  ssl-default-bind-options ssl-min-ver TLSv1.3
  ssl-default-server-options ssl-min-ver TLSv1.3
defaults
  mode {mode}
  timeout connect 2s
  timeout client 3600s
  timeout server 3600s
  maxconn 4096
frontend out
  bind 127.0.0.1:{outbound}
  default_backend mtls
backend mtls
  server payments 127.0.0.1:{inbound} ssl crt {directory}/web.both ca-file {directory}/root.pem verify required
frontend in
  bind 127.0.0.1:{inbound} ssl crt {directory}/payments.both ca-file {directory}/root.pem verify required
  default_backend app
backend app
  server app 127.0.0.1:{app}
"""
