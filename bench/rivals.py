"""Hand-written Envoy configurations to compare with: one Envoy that carries both hops, as the agent's does.

`lean`: HTTP/2 between the sidecars and the settings of a careful hand (few statistics, no dynamic ones, no extra headers).
`logged`: the same with a log of errors at both ends, as the agent makes it; `tapped`: with the place of a tap beside it.
`defaults`: HTTP/1.1 between the sidecars, and Envoy's defaults wherever nothing had to be said. The others: bench/shapes.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict

from bench.shapes import SHAPES, shaped
from meshagent.model.defaults import AccessLog as AccessLogPolicy
from meshagent.model.tapping import TAP_CLUSTER
from meshagent.translate.accesslog import INBOUND, OUTBOUND, Line, logs, written
from meshagent.translate.settings import Settings

_T = "type.googleapis.com/envoy."
_STATS = [
    r".*downstream_rq_(total|[1-5]xx|time)",
    r".*upstream_rq_(total|[1-5]xx|time|timeout|retry)",
    r".*upstream_cx_(total|connect_fail)",
]


def rival(kind: str, directory: Path, outbound: int, inbound: int, app: int) -> dict[str, Any]:
    """A whole bootstrap. `directory` holds root.pem, web.pem/.key and payments.pem/.key."""
    lean = kind in ("lean", "logged", "tapped")
    h2 = lean or kind == "kuma"
    config: dict[str, Any] = {
        "node": {"id": kind, "cluster": "bench"},
        "static_resources": {
            "listeners": [
                _listener("out", outbound, _manager("out", "mtls", lean, rbac=False), None),
                _listener(
                    "in",
                    inbound,
                    _manager("in", "app", lean, rbac=True),
                    _tls("Downstream", directory, "payments", None, h2),
                ),
            ],
            "clusters": [_mtls_cluster(directory, inbound, h2), _cluster("app", app)],
        },
    }
    if lean:
        patterns = [{"safe_regex": {"regex": each}} for each in _STATS]
        config["stats_config"] = {"stats_matcher": {"inclusion_list": {"patterns": patterns}}}
    if kind in ("logged", "tapped"):
        _add_logs(config, directory, tapped=kind == "tapped")
    return shaped(kind, config) if kind in SHAPES else config


def wide(directory: Path, first: int, count: int, app: int, *, listeners: bool) -> dict[str, Any]:
    """A bootstrap of Envoy's defaults with so many mTLS clusters: from the port `first` on a listener for each, or one.

    The one tells them apart by the host that is asked for.
    """
    names = [f"mtls{number}" for number in range(count)]
    managers = [_manager("out", name, lean=False, rbac=False) for name in (names if listeners else names[:1])]
    if not listeners:
        hosts = [
            {"name": name, "domains": [name], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": name}}]}
            for name in names
        ]
        managers[0]["typed_config"]["route_config"]["virtual_hosts"] = hosts
    clusters = [_mtls_cluster(directory, app, h2=False) | {"name": name} for name in names]
    for cluster in clusters:
        cluster["load_assignment"] = cluster["load_assignment"] | {"cluster_name": cluster["name"]}
    opened = [_listener(f"out{number}", first + number, manager, None) for number, manager in enumerate(managers)]
    return {
        "node": {"id": "wide", "cluster": "bench"},
        "static_resources": {"listeners": opened, "clusters": clusters},
    }


def _add_logs(config: dict[str, Any], directory: Path, *, tapped: bool) -> None:
    settings, errors = Settings(f"{directory}/access.log"), AccessLogPolicy(only="errors")
    for listener, side in zip(config["static_resources"]["listeners"], (f"{OUTBOUND}payments", INBOUND), strict=True):
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        line = Line("web", side, "bench", True)
        made = logs(errors, line, settings) if tapped else written(errors, line, settings)
        manager["access_log"] = [MessageToDict(each, preserving_proto_field_name=True) for each in made]
    if tapped:
        config["layered_runtime"] = {"layers": [{"name": "admin", "admin_layer": {}}]}
        config["static_resources"]["clusters"].append(_cluster(TAP_CLUSTER, 1))


def _manager(prefix: str, cluster: str, lean: bool, *, rbac: bool) -> dict[str, Any]:
    router: dict[str, Any] = {"@type": f"{_T}extensions.filters.http.router.v3.Router"}
    filters = [{"name": "router", "typed_config": router}]
    if rbac:
        principal = {"authenticated": {"principal_name": {"exact": "spiffe://bench/svc/web"}}}
        policy = {"permissions": [{"any": True}], "principals": [principal]}
        rules = {"action": "ALLOW", "policies": {"web": policy}}
        filters.insert(
            0, {"name": "rbac", "typed_config": {"@type": f"{_T}extensions.filters.http.rbac.v3.RBAC", "rules": rules}}
        )
    route = {"match": {"prefix": "/"}, "route": {"cluster": cluster}}
    manager: dict[str, Any] = {
        "@type": f"{_T}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": prefix,
        "http_filters": filters,
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    }
    if lean:
        router |= {"suppress_envoy_headers": True, "dynamic_stats": False}
        manager |= {"server_header_transformation": "PASS_THROUGH", "generate_request_id": prefix == "out"}
    return {"name": "hcm", "typed_config": manager}


def _listener(name: str, port: int, manager: dict[str, Any], tls: dict[str, Any] | None) -> dict[str, Any]:
    chain = {"filters": [manager], **({"transport_socket": tls} if tls else {})}
    return {"name": name, "address": _address(port), "filter_chains": [chain]}


def _mtls_cluster(directory: Path, port: int, h2: bool) -> dict[str, Any]:
    cluster = _cluster("mtls", port) | {"transport_socket": _tls("Upstream", directory, "web", "payments", h2)}
    if h2:
        options = f"{_T}extensions.upstreams.http.v3.HttpProtocolOptions"
        cluster["typed_extension_protocol_options"] = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": options,
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
    return cluster


def _cluster(name: str, port: int) -> dict[str, Any]:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": _address(port)}}]}]
    limits = [{"max_connections": 100000, "max_pending_requests": 100000, "max_requests": 100000}]
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
        "circuit_breakers": {"thresholds": limits},
    }


def _tls(side: str, directory: Path, own: str, peer: str | None, h2: bool) -> dict[str, Any]:
    validation: dict[str, Any] = {"trusted_ca": {"filename": f"{directory}/root.pem"}}
    name = peer or "web"
    validation["match_typed_subject_alt_names"] = [
        {"san_type": "URI", "matcher": {"exact": f"spiffe://bench/svc/{name}"}}
    ]
    pair = {
        "certificate_chain": {"filename": f"{directory}/{own}.pem"},
        "private_key": {"filename": f"{directory}/{own}.key"},
    }
    versions = {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"}
    common = {
        "tls_params": versions,
        "tls_certificates": [pair],
        "validation_context": validation,
        "alpn_protocols": ["h2"] if h2 else ["http/1.1"],
    }
    context: dict[str, Any] = {
        "@type": f"{_T}extensions.transport_sockets.tls.v3.{side}TlsContext",
        "common_tls_context": common,
    }
    if side == "Downstream":
        context["require_client_certificate"] = True
    return {"name": "tls", "typed_config": context}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
