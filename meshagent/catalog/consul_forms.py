"""Instances as Consul's catalog holds them, and back. Pure.

An instance is two registrations, as Consul's own sidecars make them: the service at its app's port, with a check that
its agent feeds, and beside it a connect-proxy on the mTLS port that is as healthy as the service. What callers need is in
the metadata of the first, so that one query tells everything, also of instances that others registered.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Literal

from pydantic import ValidationError

from meshagent.catalog.base import Listing, Offer
from meshagent.errors import StoreDenied
from meshagent.model.names import check_address
from meshagent.model.service import Instance

SIDECAR = "-sidecar-proxy"
# The shortest that Consul takes; it looks every 30 s. Until then the instance is critical, which nobody calls.
_FORGET_AFTER = "1m"
_OURS = "meshagent"
_FORM = "1"
_SAID = ("host", "id", "address", "port", "protocol", "region", "zone")
_MORE = f"{_OURS}-more-"
# Consul's limits of service metadata: pairs, bytes of a key and of a value.
_PAIRS, _KEY, _VALUE = 64, re.compile(r"[A-Za-z0-9_-]{1,128}"), 512
_RESERVED = (_OURS, "consul-")

Form = dict[str, Any]


def service_id(instance: Instance) -> str:
    """What tells the instance from all others that one Consul agent holds. Dots are in no name."""
    own = () if instance.id == instance.service else (instance.id,)
    return ".".join((instance.service, instance.host, *own))


def check_id(instance: Instance) -> str:
    """The check that says whether the instance is in service."""
    return f"{_OURS}:{service_id(instance)}"


def registration_of(offer: Offer, ttl: timedelta) -> Form:
    """The body that registers the instance and its proxy. Raises StoreDenied for what Consul cannot hold."""
    instance, definition = offer.instance, offer.definition
    check = {
        "CheckID": check_id(instance),
        "Name": "meshagent",
        "Notes": f"What the agent on {instance.host} says. It runs the checks of the service's definition.",
        "TTL": f"{ttl.total_seconds():g}s",
        "Status": status_of(instance),
        "DeregisterCriticalServiceAfter": _FORGET_AFTER,
    }
    return {
        "ID": service_id(instance),
        "Name": instance.service,
        "Address": instance.address,
        "Port": definition.port,
        "Meta": meta_of(instance),
        "Checks": [check],
        "Connect": {"SidecarService": _proxy_of(offer)},
    }


def status_of(instance: Instance) -> str:
    """The instance's health in Consul's words."""
    return "passing" if instance.health == "passing" else "critical"


def meta_of(instance: Instance) -> dict[str, str]:
    """The instance as service metadata. Raises StoreDenied when that is more than Consul takes.

    Its own metadata is there by name, as far as Consul can hold it so; the rest is JSON in pieces.
    """
    said = {f"{_OURS}-{name}": str(getattr(instance, name)) for name in _SAID}
    meta = {_OURS: _FORM, **{name: text for name, text in said.items() if text}}
    fit = {name: text for name, text in instance.meta.items() if _fits(name, text)}
    for name in sorted(fit)[max(0, _PAIRS // 2 - len(meta)) :]:
        del fit[name]
    rest = {name: text for name, text in instance.meta.items() if name not in fit}
    whole = json.dumps(rest, sort_keys=True, separators=(",", ":")) if rest else ""
    pieces = [whole[start : start + _VALUE] for start in range(0, len(whole), _VALUE)]
    meta |= fit | {f"{_MORE}{place}": piece for place, piece in enumerate(pieces)}
    if len(meta) > _PAIRS or any(len(text.encode(errors="replace")) > _VALUE for text in meta.values()):
        raise StoreDenied(
            f"{service_id(instance)}: its meta, region or zone is more than Consul's catalog takes.",
            next_step=f"Make them shorter: {_PAIRS} texts of {_VALUE} bytes are the limit for all together.",
        )
    return meta


def listing_of(
    service: str, entries: Iterable[Mapping[str, Any]], connected: Iterable[Mapping[str, Any]] = ()
) -> Listing:
    """All of a service, from the answers of the health endpoints. Pure trust in nothing: each entry is checked.

    `connected` are the proxies of the service, of which those that are not ours count; what stands behind one of them is
    not called in plain text as well.
    """
    found: dict[tuple[str, str, str, int], Instance] = {}
    problems: dict[str, str] = {}
    hidden: set[tuple[str, str]] = set()
    sorts = ((_native_of, connected), (instance_of, entries))
    for read, entry in ((read, entry) for read, rows in sorts for entry in rows):
        place = f"consul/{service}"
        try:
            place = f"consul/{entry['Node']['Node']}/{entry['Service']['ID']}"
            instance = read(service, entry)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            problems[place] = f"{_reason(error)}: this instance is not called"
            continue
        if instance is None or (instance.plain and not instance.native and (instance.host, instance.id) in hidden):
            continue
        if instance.native:
            hidden.add((instance.host, _behind(entry)))
        key = (instance.host, instance.id, instance.address, instance.port)
        if key not in found or found[key].health != "passing":  # an agent of Consul that was left may still show it
            found[key] = instance
    return Listing(service, tuple(found[key] for key in sorted(found)), problems)


def instance_of(service: str, entry: Mapping[str, Any]) -> Instance:
    """One entry of the health endpoint. Raises ValueError, KeyError or TypeError for one that is not an instance."""
    told, checks = entry["Service"], entry["Checks"]
    health = _health_of(checks)
    if told["Service"] != service or told.get("Kind"):
        raise ValueError(f"is not a plain instance of {service}")
    meta = dict(told.get("Meta") or {})
    if _OURS not in meta:
        return _foreign(service, entry, health, meta)
    if meta[_OURS] != _FORM:
        raise ValueError(f"has form {meta[_OURS]!r}; this agent reads form {_FORM}")
    said = {name: meta.get(f"{_OURS}-{name}", "") for name in _SAID}
    if not re.fullmatch(r"[0-9]{1,5}", said["port"]):
        raise ValueError("has no port")
    instance = Instance.model_validate(
        said | {"service": service, "port": int(said["port"]), "health": health, "meta": _own_meta(meta)}
    )
    if told["ID"] != service_id(instance):
        raise ValueError("does not say what its ID says")
    return instance


def _proxy_of(offer: Offer) -> Form:
    instance, definition = offer.instance, offer.definition
    upstreams = [
        {"DestinationName": upstream.service, "LocalBindPort": upstream.local_port}
        for upstream in definition.upstreams
        if upstream.local_port
    ]
    return {
        "Address": instance.address,
        "Port": instance.port,
        "Meta": {_OURS: _FORM, f"{_OURS}-host": instance.host},
        "Proxy": {
            "LocalServiceAddress": definition.address,
            "LocalServicePort": definition.port,
            "Config": {"protocol": instance.protocol},
            "Upstreams": upstreams,
        },
        "Checks": [{"Name": "the service", "AliasService": service_id(instance)}],
    }


def _foreign(service: str, entry: Mapping[str, Any], health: str, meta: dict[str, str]) -> Instance:
    """An instance that was registered without meshagent: plain text at its own port."""
    address = entry["Service"].get("Address") or entry["Node"]["Address"]
    return Instance.model_validate(
        {
            "service": service,
            "host": _name_of(entry["Node"]["Node"]),
            "id": _name_of(entry["Service"]["ID"]),
            "address": check_address(address),
            "port": entry["Service"]["Port"],
            "health": health,
            "meta": meta,
            "plain": True,
        }
    )


def _native_of(service: str, entry: Mapping[str, Any]) -> Instance | None:
    """One entry of the endpoint of proxies: mTLS by Consul's CA. None for a proxy of ours, which its service tells of."""
    told = entry["Service"]
    if _OURS in (told.get("Meta") or {}):
        return None
    proxied = told["Proxy"]["DestinationServiceName"] if told.get("Kind") == "connect-proxy" else told["Service"]
    if proxied != service or told.get("Kind") not in ("connect-proxy", "", None):
        raise ValueError(f"is not a proxy of {service}")
    return _foreign(service, entry, _health_of(entry["Checks"]), {}).model_copy(update={"native": True})


def _behind(entry: Mapping[str, Any]) -> str:
    """The instance that a proxy stands before, or that takes mTLS itself."""
    told = entry["Service"]
    return _name_of((told.get("Proxy") or {}).get("DestinationServiceID") or told["ID"])


def _health_of(checks: Iterable[Mapping[str, Any]]) -> Literal["passing", "failing"]:
    return "failing" if any(check["Status"] == "critical" for check in checks) else "passing"


def _name_of(text: str) -> str:
    """The text as a name of ours, for people to recognise."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:63].strip("-") or "unnamed"


def _own_meta(meta: Mapping[str, str]) -> dict[str, str]:
    """What the service itself has to say: what is there by name, and what is in pieces."""
    own = {name: text for name, text in meta.items() if not name.startswith(_RESERVED)}
    whole = ""
    while (piece := meta.get(f"{_MORE}{len(whole) // _VALUE}")) is not None:
        whole += piece
        if len(piece) != _VALUE:
            break
    rest = json.loads(whole) if whole else {}
    if not isinstance(rest, dict):
        raise TypeError("has metadata that is not an object")
    return {**own, **rest}


def _fits(name: str, text: str) -> bool:
    if not _KEY.fullmatch(name) or name.startswith(_RESERVED):
        return False
    try:
        return len(text.encode()) <= _VALUE
    except UnicodeEncodeError:
        return False


def _reason(error: Exception) -> str:
    """What is wrong, in one line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    if isinstance(error, KeyError):
        return f"lacks {error.args[0]}"
    return str(error)
