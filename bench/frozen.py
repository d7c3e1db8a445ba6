"""What the agent has configured an Envoy with, as one file that needs no agent: for tools that make Envoy slow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.system.live import TRUST_DOMAIN

Part = dict[str, Any]


def frozen(dump: Part, directory: Path, log: Path) -> Part:
    """A bootstrap from the answer to /config_dump?include_eds.

    `directory` holds root.pem and NAME.pem and .key of each service, of the trust domain `bench`; access logs go to `log`.
    """
    parts = dump["configs"]
    routes = {each["route_config"]["name"]: each["route_config"] for each in _all(parts, "dynamic_route_configs")}
    filters = {each["ecds_filter"]["name"]: each["ecds_filter"] for each in _all(parts, "ecds_filters")}
    listed = _all(parts, "dynamic_endpoint_configs")
    endpoints = {each["endpoint_config"]["cluster_name"]: each["endpoint_config"] for each in listed}
    bootstrap = next(part["bootstrap"] for part in parts if "bootstrap" in part)
    clusters = [_cluster(each["cluster"], endpoints) for each in _all(parts, "dynamic_active_clusters")]
    listeners = [
        _listener(each["active_state"]["listener"], routes, filters) for each in _all(parts, "dynamic_listeners")
    ]
    del bootstrap["dynamic_resources"]
    bootstrap["static_resources"]["listeners"] = listeners
    bootstrap["static_resources"]["clusters"] += clusters
    bootstrap["static_resources"]["secrets"] = _secrets(_all(parts, "dynamic_active_secrets"), directory)
    bootstrap["admin"]["address"]["pipe"]["path"] = str(log.with_suffix(".sock"))
    text = json.dumps(_without(bootstrap)).replace(f"spiffe://{TRUST_DOMAIN}/", "spiffe://bench/")
    config: Part = json.loads(text)
    for manager in managers(config):
        for each in manager.get("access_log", ()):
            if "path" in each["typed_config"]:
                each["typed_config"]["path"] = str(log)
    return config


def managers(config: Part) -> list[Part]:
    """The HTTP connection managers."""
    chains = [chain for listener in config["static_resources"]["listeners"] for chain in listener["filter_chains"]]
    found = [each["typed_config"] for chain in chains for each in chain["filters"]]
    return [each for each in found if "http_filters" in each]


def _all(parts: list[Part], field: str) -> list[Part]:
    return [each for part in parts for each in part.get(field, ())]


def _cluster(cluster: Part, endpoints: dict[str, Part]) -> Part:
    del cluster["@type"]
    if cluster["type"] == "EDS":
        del cluster["eds_cluster_config"]
        held = endpoints[cluster["name"]]["endpoints"]
        told = [
            [{"endpoint": {"address": each["endpoint"]["address"]}} for each in one["lb_endpoints"]] for one in held
        ]
        there = [{"lb_endpoints": each} for each in told]
        cluster |= {"type": "STATIC", "load_assignment": {"cluster_name": cluster["name"], "endpoints": there}}
    return cluster


def _listener(listener: Part, routes: dict[str, Part], filters: dict[str, Part]) -> Part:
    del listener["@type"]
    for each in (each for chain in listener["filter_chains"] for each in chain["filters"]):
        settings = _here(each, filters)["typed_config"]
        if "rds" in settings:
            named = dict(routes[settings.pop("rds")["route_config_name"]])
            settings["route_config"] = {key: value for key, value in named.items() if key != "@type"}
        for filter_ in settings.get("http_filters", ()):
            _here(filter_, filters)
    return listener


def _here(place: Part, filters: dict[str, Part]) -> Part:
    if place.pop("config_discovery", None):
        place["typed_config"] = filters[place["name"]]["typed_config"]
    return place


def _secrets(told: list[Part], directory: Path) -> list[Part]:
    found: list[Part] = []
    for name in (each["name"] for each in told):
        if name.startswith("svid/"):
            files = directory / name.removeprefix("svid/")
            pair = {"certificate_chain": {"filename": f"{files}.pem"}, "private_key": {"filename": f"{files}.key"}}
            found.append({"name": name, "tls_certificate": pair})
        else:
            found.append({"name": name, "validation_context": {"trusted_ca": {"filename": f"{directory}/root.pem"}}})
    return found


def _without(told: Any) -> Any:
    """Secrets by name alone, since all of them are in the file."""
    if isinstance(told, dict):
        return {key: _without(value) for key, value in told.items() if key != "sds_config"}
    return [_without(each) for each in told] if isinstance(told, list) else told
