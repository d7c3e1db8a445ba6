"""What holds where several documents may say it: the rule of a route, else the service, else the mesh, else what is built in.

Nobody said anything: the values are those that stood before there were defaults, as the same objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal

from meshagent.model.defaults import AccessLog, RetryBudget, Sampling, Timeouts, Tracing
from meshagent.model.mesh import Mesh
from meshagent.model.names import HTTP_PROTOCOLS, Protocol, format_duration
from meshagent.model.route import Retry, RouteRule
from meshagent.model.service import Service
from meshagent.model.traffic import NOTHING_ASKED, Traffic
from meshagent.model.view import ProxyView, Way
from meshagent.model.world import Origin, Stated

CONNECT = timedelta(seconds=2)  # what Envoy is told where nobody says a time
_IDLE = timedelta(minutes=5)  # Envoy's own, of a stream; a TCP connection has none
Level = Literal["route", "service", "mesh", "built-in"]
Services = Mapping[str, Stated[Service]]


def traffic_of(mesh: Mesh, service: Service | None) -> Traffic:
    """A service's settings for its callers, with the mesh's in place of what it does not say."""
    own = service.traffic if service else NOTHING_ASKED
    times, common = own.timeouts, mesh.timeouts
    asked: dict[str, Any] = {}
    if own.retry_budget is None and mesh.retry_budget is not None:
        asked["retry_budget"] = mesh.retry_budget
    if own.connection_pool.connect_timeout is None and common.connect is not None:
        asked["connection_pool"] = own.connection_pool.model_copy(update={"connect_timeout": common.connect})
    if (common.request, common.idle) != (None, None):
        request = common.request if times.request is None else times.request
        asked["timeouts"] = Timeouts(request=request, idle=common.idle if times.idle is None else times.idle)
    if mesh.tracing is None or own.tracing is None:
        asked["tracing"] = Sampling(sampling=mesh.tracing.sampling) if mesh.tracing else None
    changed = {name: value for name, value in asked.items() if value != getattr(own, name)}
    return own.model_copy(update=changed) if changed else own


def sampling_of(mesh: Mesh, service: Service | None, protocol: Protocol) -> float | None:
    """Of how many calls in a hundred to the service its own proxy begins a trace; None: it has to do with none."""
    if mesh.tracing is None or protocol not in HTTP_PROTOCOLS:
        return None
    return (service.tracing if service and service.tracing else mesh.tracing).sampling or None


def with_tracing(view: ProxyView, tracing: Tracing | None) -> ProxyView:
    """The view with the collector, where something in it is traced or logged there."""
    traced = any(each.sampling for each in view.inbounds) or any(each.traced for each in view.outbounds)
    used = traced or view.collected
    return replace(view, tracing=tracing) if tracing and used else view


@dataclass(frozen=True, slots=True)
class Setting:
    """A value in force: `value` as documents write it, `words` for a person, and who said it where."""

    name: str
    value: Any
    words: str
    level: Level
    origin: Origin


def settings(mesh: Stated[Mesh], services: Services, upstream: str, call: Call) -> tuple[Setting, ...]:
    """What holds for calls to an upstream, each with where it comes from.

    How instances are connected to, and how many retries there may be, is of each service that is `reached`.
    """
    said = _Said(mesh, services.get(upstream), call.way)
    apart = call.reached != (upstream,)
    ends = [(f" of {name}" if apart else "", _Said(mesh, services.get(name), call.way)) for name in call.reached]
    idle = "idle timeout", "idle_timeout", "timeouts.idle"
    connects = [_connect(end, of) for of, end in ends]
    if call.protocol not in HTTP_PROTOCOLS:
        return (_time(said, idle, timedelta(0)), *connects, _log(said))
    whole = _time(said, ("timeout", "timeout", "timeouts.request"), timedelta(0))
    budgets = [_budget(end, of) for of, end in ends]
    return (whole, _time(said, idle, _IDLE), *connects, _retries(said), *budgets, _log(said), _tracing(said))


@dataclass(frozen=True, slots=True)
class Call:
    """The way that calls take (None: no rule has a say), the services that they reach by it, and how these speak."""

    way: Way | None
    reached: tuple[str, ...]
    protocol: Protocol


@dataclass(frozen=True, slots=True)
class _Said:
    """What the documents say, from the closest on."""

    mesh: Stated[Mesh]
    service: Stated[Service] | None
    way: Way | None

    def first(self, rule: str, path: str, common: str | None = None) -> tuple[Any, Level, Origin] | None:
        """The first value at these paths in the rule, the service and the mesh that is not None."""
        return next(self._values(rule, path, path if common is None else common), None)

    def _values(self, rule: str, path: str, common: str) -> Iterator[tuple[Any, Level, Origin]]:
        if self.way and rule and (value := _at(self.way.rule, rule)) is not None:
            yield value, "route", self.way.origin
        if self.service and path and (value := _at(self.service.thing, path)) is not None:
            yield value, "service", self.service.origin(path)
        if common and (value := _at(self.mesh.thing, common)) is not None:
            yield value, "mesh", self.mesh.origin(common)


def _at(thing: RouteRule | Service | Mesh, path: str) -> Any:
    value: Any = thing
    for name in path.split("."):
        value = getattr(value, name, None)
    return value


def _setting(name: str, found: tuple[Any, Level, Origin] | None, built_in: Any, value: Any, words: str) -> Setting:
    _, level, origin = found or (built_in, "built-in", Origin())
    return Setting(name, value, words, level, origin)


def _time(said: _Said, names: tuple[str, str, str], built_in: timedelta) -> Setting:
    name, rule, path = names
    found = said.first(rule, path)
    value: timedelta = found[0] if found else built_in
    text = format_duration(value) if value else "0s"
    return _setting(name, found, built_in, text, text if value else "none")


def _connect(said: _Said, of: str) -> Setting:
    found = said.first("", "connection_pool.connect_timeout", "timeouts.connect")
    text = format_duration(found[0] if found else CONNECT)
    return _setting(f"connect timeout{of}", found, CONNECT, text, text)


def _retries(said: _Said) -> Setting:
    found = said.first("retry", "", "")
    retry: Retry = found[0] if found else Retry()
    reasons = [*retry.on, *map(str, retry.statuses)]
    words = f"{retry.attempts} on {', '.join(reasons)}" if retry.attempts else "none"
    value = {"attempts": retry.attempts, "on": list(retry.on), "statuses": list(retry.statuses)}
    return _setting("retries", found, None, value, words)


def _budget(said: _Said, of: str) -> Setting:
    found = said.first("", "retry_budget")
    budget: RetryBudget = found[0] if found else RetryBudget()
    words = f"{budget.percent} % of the first tries under way, or {budget.min_concurrent}"
    return _setting(f"retry budget{of}", found, None, budget.model_dump(mode="json"), words)


def _log(said: _Said) -> Setting:
    found = said.first("access_log", "access_log")
    log: AccessLog = found[0] if found else AccessLog()
    if found and found[1] == "mesh" and log == AccessLog() and "access_log" not in said.mesh.origins:
        found = None
    words = log.only + (f" to {log.to}" if log.to != "agent" else "")
    words += f", and what takes {format_duration(log.slower_than)}" if log.slower_than else ""
    value = log.model_dump(mode="json", exclude_none=True, exclude={"to"} if log.to == "agent" else None)
    return _setting("access log", found, None, {"slower_than": None} | value, words)


def _tracing(said: _Said) -> Setting:
    mesh = said.mesh.thing.tracing
    if mesh is None:
        return _setting("tracing", None, None, None, "none: the mesh document names no collector")
    found = said.first("tracing", "tracing")
    percent = found[0].sampling if found else 0
    value = {"sampling": percent, "otlp": mesh.otlp}
    return _setting("tracing", found, None, value, f"{percent:g} % to {mesh.otlp}" if percent else "none")
