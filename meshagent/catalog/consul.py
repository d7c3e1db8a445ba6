"""Consul's own catalog: registered at a Consul agent, read and watched by the health endpoint.

Measured on 1.8.7: a TTL check turns critical when it is not fed in time and that reaches other agents at once; feeding a
check with what it says already writes nothing; an agent that is asked to feed an unknown check answers 500.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from meshagent.catalog.base import Listing, Offer
from meshagent.catalog.consul_forms import SIDECAR, check_id, listing_of, registration_of, service_id, status_of
from meshagent.errors import LeaseLost, MeshError, StoreDenied, StoreUnavailable
from meshagent.model.names import check_service_name
from meshagent.model.service import Instance
from meshagent.wire.consul import Answer, Consul, open_consul
from meshagent.wire.credentials import ConsulCredentials

_OK = 200
_SERVICE, _CONNECT = "/v1/health/service/", "/v1/health/connect/"
_AT_ONCE = 16


def open_url(url: str, access: ConsulCredentials, ttl: timedelta, *, native: bool = False) -> ConsulCatalog:
    """The catalog of the Consul at the URL. Opened on first use, which raises UsageProblem and StoreDenied."""
    return ConsulCatalog(lambda: open_consul(url, access), ttl, native=native)


class ConsulCatalog:
    """A `Catalog` in Consul. Belongs to the event loop that it is first used on.

    The agent that answers holds the registrations; when another one has to be asked, they are made again there, and
    those that the first one shows go critical by themselves. `native`: proxies of Consul's own are listed too.
    """

    def __init__(self, opener: Callable[[], Consul], ttl: timedelta, *, native: bool = False) -> None:
        self._opener = opener
        self._ttl = ttl
        self._places = (_SERVICE, _CONNECT) if native else (_SERVICE,)
        self._consul: Consul | None = None
        self._registered: dict[str, Offer] = {}
        self._queues: set[asyncio.Queue[Listing | MeshError | None]] = set()
        self._closed = False

    async def register(self, offers: Sequence[Offer], lease: str) -> None:  # noqa: ARG002 - of the protocol
        """As Catalog.register; the lease is not needed."""
        for offer in offers:
            name = service_id(offer.instance)
            known = self._registered.pop(name, None)
            if known is None or _lasting(known) != _lasting(offer):
                body = registration_of(offer, self._ttl)
                path = "/v1/agent/service/register"
                answer = await self._opened().put(path, {"replace-existing-checks": "true"}, body, harmless=True)
                _require(answer, f"register {name}")
            await self._feed(offer.instance)
            self._registered[name] = offer

    async def deregister(self, instances: Sequence[Instance]) -> None:
        """As Catalog.deregister."""
        for instance in instances:
            name = service_id(instance)
            self._registered.pop(name, None)
            await self._opened().put(f"/v1/agent/service/deregister/{quote(name)}", harmless=True)

    async def renew(self, instances: Sequence[Instance]) -> None:
        """As Catalog.renew."""
        try:
            outcomes = await asyncio.gather(*(self._feed(each) for each in instances), return_exceptions=True)
            for outcome in outcomes:
                if outcome is not None:
                    raise outcome
        except LeaseLost:
            self._registered.clear()
            raise

    async def read(self, service: str = "") -> tuple[Listing, ...]:
        """As Catalog.read. Of all services, those that could be in a mesh: one call each."""
        if service:
            consul = self._opened()
            answers = [await consul.get(_path(place, service)) for place in self._places]
            return (await _seen(consul, _listing(service, answers), 1),)
        answer = await self._opened().get("/v1/catalog/services")
        names = sorted(name for name in _required(answer, "list services").json() if _may_be_in_a_mesh(name))
        turns = asyncio.Semaphore(_AT_ONCE)

        async def one(name: str) -> Listing:
            async with turns:
                return (await self.read(name))[0]

        listings = await asyncio.gather(*(one(name) for name in names))
        return tuple(each for each in listings if each.instances or each.problems)

    async def watch(self, services: Collection[str]) -> AsyncGenerator[Listing, None]:
        """As Catalog.watch: one blocking query for each service, which are all that is asked."""
        queue: asyncio.Queue[Listing | MeshError | None] = asyncio.Queue()
        consul = self._opened()
        tasks = [asyncio.create_task(_follow(consul, self._places, name, queue)) for name in sorted(set(services))]
        self._queues.add(queue)
        try:
            while (news := await queue.get()) is not None:
                if isinstance(news, MeshError):
                    raise news
                yield news
        finally:
            self._queues.discard(queue)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """As Catalog.close."""
        self._closed = True
        for queue in self._queues:
            queue.put_nowait(None)
        if self._consul:
            await self._consul.close()

    def _opened(self) -> Consul:
        if self._closed:
            raise StoreUnavailable("The catalog is closed.", next_step="Open it again.")
        if self._consul is None:
            self._consul = self._opener()
        return self._consul

    async def _feed(self, instance: Instance) -> None:
        """Say how the instance is. Raises LeaseLost when Consul's agent does not know it."""
        told = {"Status": status_of(instance), "Output": f"{instance.health}, says the agent on {instance.host}"}
        path = f"/v1/agent/check/update/{quote(check_id(instance), safe=':')}"
        answer = await self._opened().put(path, body=told, harmless=True)
        if answer.status != _OK:
            raise LeaseLost(
                f"Consul's agent no longer knows {service_id(instance)}.", next_step="Register the instance again."
            )


async def _follow(
    consul: Consul, places: Sequence[str], service: str, queue: asyncio.Queue[Listing | MeshError | None]
) -> None:
    """Put each new listing of the service into the queue; at the end, why."""
    end: MeshError | None = None
    try:
        known = 1
        async with aclosing(_newest(consul, [_path(place, service) for place in places])) as found:
            async for answers in found:
                listing = await _seen(consul, _listing(service, answers), known)
                known = len(listing.instances)
                queue.put_nowait(listing)
    except (StoreDenied, StoreUnavailable) as error:
        end = error
    queue.put_nowait(end)


async def _newest(consul: Consul, paths: Sequence[str]) -> AsyncGenerator[list[Answer], None]:
    """The answers of all paths, as soon as there is one of each and then each time that one is new."""
    news: asyncio.Queue[tuple[str, Answer] | MeshError | None] = asyncio.Queue()

    async def follow(path: str) -> None:
        end: MeshError | None = None
        try:
            async for answer in consul.follow(path):
                news.put_nowait((path, answer))
        except (StoreDenied, StoreUnavailable) as error:
            end = error
        news.put_nowait(end)

    newest: dict[str, Answer] = {}
    tasks = [asyncio.create_task(follow(path)) for path in paths]
    try:
        while (told := await news.get()) is not None:
            if isinstance(told, MeshError):
                raise told
            newest[told[0]] = told[1]
            if len(newest) == len(paths):
                yield [newest[path] for path in paths]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _seen(consul: Consul, listing: Listing, known: int) -> Listing:
    """The listing, of which nothing is hidden. Raises StoreDenied when the token may not see the service.

    Consul leaves out in silence what a token may not see. Where less is there than was known, a call that needs the same
    right and is refused without it tells the two apart.
    """
    if len(listing.instances) < known:
        try:
            await consul.get(f"/v1/config/service-defaults/{quote(listing.service)}")
        except StoreDenied as error:
            raise _hidden(listing.service) from error
    return listing


def _hidden(service: str) -> StoreDenied:
    return StoreDenied(
        f"The token may not see the instances of {service}.",
        next_step='Give its policy: service_prefix "" { policy = "read" } and node_prefix "" { policy = "read" }',
    )


def _path(place: str, service: str) -> str:
    return f"{place}{quote(service)}"


def _listing(service: str, answers: Sequence[Answer]) -> Listing:
    """The listing in the answers. Raises StoreDenied for one that hides something, StoreUnavailable for none."""
    return listing_of(service, *(_entries(service, answer) for answer in answers))


def _entries(service: str, answer: Answer) -> list[Mapping[str, Any]]:
    entries = _required(answer, f"list {service}").json()
    if answer.filtered:
        raise _hidden(service)
    if not isinstance(entries, list):
        raise StoreUnavailable(f"Consul's answer for {service} is not a list.", next_step="See what answers there.")
    return entries


def _required(answer: Answer, what: str) -> Answer:
    _require(answer, what)
    return answer


def _require(answer: Answer, what: str) -> None:
    if answer.status != _OK:
        said = answer.body[:200].decode(errors="replace").strip()
        raise StoreDenied(f"Consul does not {what}: {answer.status} {said}", next_step="See the log of Consul's agent.")


def _lasting(offer: Offer) -> Offer:
    """The offer but for its health, which a check says."""
    return replace(offer, instance=offer.instance.model_copy(update={"health": "passing"}))


def _may_be_in_a_mesh(name: str) -> bool:
    try:
        check_service_name(name)
    except ValueError:
        return False
    return name != "consul" and not name.endswith(SIDECAR)
