"""A client of DeltaStream for the tests of this room: it says what the test tells it to."""

from __future__ import annotations

from collections.abc import Mapping

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

from meshagent.xds.cache import Cache
from meshagent.xds.outcome import Outcome
from meshagent.xds.stream import DeltaStream
from meshagent.xds.types import short_name

Seen = tuple[str, dict[str, bytes], tuple[str, ...]]  # type, resources, removed


class Proxy:
    """A stream with a client that says what the test tells it to."""

    def __init__(self, cache: Cache) -> None:
        self.stream = DeltaStream(cache)
        self.last: list[DeltaDiscoveryResponse] = []
        self.open: dict[str, DeltaDiscoveryResponse] = {}  # without a verdict, by nonce
        cache.watch(self.stream.changed)

    def ask(
        self, type_url: str, *names: str, drop: tuple[str, ...] = (), held: Mapping[str, str] | None = None
    ) -> list[Seen]:
        """Subscribes and unsubscribes; what the server sends then."""
        self.stream.receive(
            DeltaDiscoveryRequest(
                type_url=type_url,
                resource_names_subscribe=names,
                resource_names_unsubscribe=drop,
                initial_resource_versions=held or {},
            )
        )
        return self.take()

    def take(self) -> list[Seen]:
        """What the server sends now."""
        self.last = [DeltaDiscoveryResponse.FromString(response) for response in self.stream.take()]
        self.open |= {response.nonce: response for response in self.last}
        return [
            (
                short_name(response.type_url),
                {resource.name: resource.resource.value for resource in response.resources},
                tuple(response.removed_resources),
            )
            for response in self.last
        ]

    def accept(self, *responses: DeltaDiscoveryResponse) -> list[Outcome]:
        """Accepts the responses, or else all of the last `take`; what the server makes of it."""
        for response in responses or self.last:
            self.open.pop(response.nonce, None)
            self.stream.receive(DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce))
        return self.stream.outcomes()

    def reject(self, response: DeltaDiscoveryResponse, message: str = "no") -> list[Outcome]:
        """Rejects one response."""
        self.open.pop(response.nonce, None)
        request = DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
        request.error_detail.code = 13
        request.error_detail.message = message
        self.stream.receive(request)
        return self.stream.outcomes()

    def settle(self) -> list[Outcome]:
        """Accepts everything until nothing more comes."""
        outcomes = self.stream.outcomes()
        while self.open or self.take():
            outcomes += self.accept(*self.open.values())
        return outcomes


def versions(cache: Cache, type_url: str) -> dict[str, str]:
    """What a client that holds everything of the type claims on a new stream."""
    return {name: entry.version for name in cache.names(type_url) if (entry := cache.entry(type_url, name))}
