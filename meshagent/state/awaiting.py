"""Routes and gateways that wait for what they lead to, and what services fail over to. Pure.

A route that names a service of which this host knows nothing would send requests nowhere until that is told. So it counts
from then on, and the route before it until then; nothing else waits for it. A failover waits for nobody: calls go on as
before until it is needed, and a service that is not known yet is passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Generic, TypeVar

from meshagent.model.gateway import Gateway
from meshagent.model.route import Route
from meshagent.model.service import Service
from meshagent.model.world import Stated

Leading = TypeVar("Leading", Route, Gateway)
Services = Mapping[str, Stated[Service]]
Known = Callable[[str], bool]
"""Whether the instances of a service were told once, be there any or none."""


class Awaiting(Generic[Leading]):
    """The newest routes that do not count yet, by the service that is called; or gateways, by name."""

    def __init__(self) -> None:
        self._routes: dict[str, Stated[Leading]] = {}
        self._named: tuple[Mapping[str, Stated[Leading]], Mapping[str, Stated[Leading]], frozenset[str]]
        self._named = ({}, {}, frozenset())

    def __bool__(self) -> bool:
        """Whether any route waits."""
        return bool(self._routes)

    def over(self, routes: Mapping[str, Stated[Leading]]) -> dict[str, Stated[Leading]]:
        """The newest state of every route."""
        return {**routes, **self._routes}

    def settle(
        self, before: Mapping[str, Stated[Leading]], newest: Mapping[str, Stated[Leading]], known: Known
    ) -> Mapping[str, Stated[Leading]]:
        """The routes that count now; the others wait. The object before where nothing changed."""
        counting: dict[str, Stated[Leading]] = {}
        waiting: dict[str, Stated[Leading]] = {}
        for name, stated in newest.items():
            held = before.get(name)
            if stated is held or all(map(known, stated.thing.services)):
                counting[name] = stated
                continue
            waiting[name] = stated
            if held:
                counting[name] = held
        self._routes = waiting if waiting != self._routes else self._routes
        same = counting.keys() == before.keys() and all(counting[name] is before[name] for name in counting)
        return before if same else counting

    def ready(self, known: Known) -> bool:
        """Whether one of them has all that it waited for."""
        return any(all(map(known, stated.thing.services)) for stated in self._routes.values())

    def narrow(self, wanted: Collection[str]) -> None:
        """Forget routes of services that are not called any more, and gateways that are not served."""
        if any(name not in wanted for name in self._routes):
            self._routes = {name: stated for name, stated in self._routes.items() if name in wanted}

    def named(self, routes: Mapping[str, Stated[Leading]]) -> frozenset[str]:
        """The services that the routes that count and those that wait lead to."""
        of, waiting, named = self._named
        if of is not routes or waiting is not self._routes:
            every = (*routes.values(), *self._routes.values())
            named = frozenset(name for stated in every for name in stated.thing.services)
            self._named = (routes, self._routes, named)
        return named


class Backups:
    """The services that others fail over to: one level deep, as proxies carry it out."""

    def __init__(self) -> None:
        self._last: tuple[Services, frozenset[str], frozenset[str]] = ({}, frozenset(), frozenset())

    def of(self, services: Services, called: frozenset[str]) -> frozenset[str]:
        """Those of the services that are called."""
        held, before, found = self._last
        if held is not services or before != called:
            stated = (services.get(name) for name in called)
            found = frozenset(backup for each in stated if each for backup in each.thing.backups)
            self._last = (services, called, found)
        return found
