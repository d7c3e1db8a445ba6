"""One delta xDS stream, without the wire: requests in, responses and outcomes out. No I/O, no clock, no task.

`receive` takes what the client sends, `changed` what moved in the cache; `take` then gives all that is to be sent now,
in order and with bursts already folded together, and `outcomes` tells what became of it. Several responses may be under
way; a verdict is matched by its nonce, and those of one type come in the order in which the responses went out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from itertools import count

from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3 import discovery_pb2 as discovery

from meshagent.xds.cache import Cache, Key
from meshagent.xds.outcome import Applied, Outcome, Rejected, reason
from meshagent.xds.status import Client, TypeStatus
from meshagent.xds.subscription import Push, Subscription, Suspects
from meshagent.xds.types import CDS, EDS, LDS, ONE_PER_RESPONSE, REMOVED_FIRST, in_push_order


@dataclass(slots=True)
class _Sent:
    """Counts since the stream began, of one type."""

    resources: int = 0
    removals: int = 0
    responses: int = 0
    bytes: int = 0


class DeltaStream:
    """What one client has been told and what it made of it."""

    def __init__(self, cache: Cache) -> None:
        self.client = Client()
        self._cache = cache
        self._subscriptions: dict[str, Subscription] = {}
        self._sent: dict[str, _Sent] = {}
        self._under_way: dict[str, Push] = {}
        self._nonces = count(1)
        self._rewarming: frozenset[str] = frozenset()  # clusters sent before the client spoke of their endpoints
        self._taken = 0  # the generation at the last `take`
        self._applied = 0
        self._holds: Counter[int] = Counter()  # generation: pushes that keep it from being applied
        self._outcomes: list[Outcome] = []

    @property
    def applied(self) -> int:
        """The generation up to which all that is subscribed to is applied or rejected; 0 while the client starts."""
        return self._applied

    @property
    def started(self) -> bool:
        """Whether the client has asked for anything."""
        return bool(self._subscriptions)

    def receive(self, request: discovery.DeltaDiscoveryRequest) -> None:
        """A subscription, a verdict, or both; call `take` and `outcomes` afterwards."""
        if request.node.id:  # only the first request must carry it
            self.client = _client(request.node)
        subscription = self._subscriptions.get(request.type_url)
        if subscription is None:
            self._begin(request)
        else:
            self._judge(subscription, request)
            subscription.subscribe(request.resource_names_subscribe)
            subscription.unsubscribe(request.resource_names_unsubscribe)
        self._announce()

    def changed(self, keys: Iterable[Key]) -> None:
        """These resources were put or removed in the cache; call `take` afterwards, even if none is wanted."""
        for type_url, name in keys:
            subscription = self._subscriptions.get(type_url)
            if subscription and subscription.wants(name):
                subscription.mark(name)

    def take(self) -> list[bytes]:
        """The serialised responses to be sent now, in this order. Nothing before the cache has its first snapshot."""
        if not self._cache.ready:
            return []
        hold = self._next_hold()
        now: list[bytes] = []
        last: list[list[bytes]] = []
        for type_url in in_push_order(self._subscriptions):
            additions, removals = self._take_type(self._subscriptions[type_url], hold)
            if type_url in REMOVED_FIRST:
                now += removals
            else:
                last.append(removals)
            now += additions
        self._taken = self._cache.generation
        self._announce()
        return now + [response for removals in reversed(last) for response in removals]

    def outcomes(self) -> list[Outcome]:
        """What became known since the last call, oldest first."""
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def retry_rejected(self, type_url: str | None = None) -> int:
        """Has what the client rejected (of one type or of all) sent once more; returns how many resources that is.

        For rejections that had a cause outside of the bytes, such as a port that another process held.
        """
        chosen = self._subscriptions.values() if type_url is None else filter(None, [self._subscriptions.get(type_url)])
        return sum(subscription.retry() for subscription in chosen)

    def status(self) -> dict[str, TypeStatus]:
        """What the client holds and was sent, by type URL."""
        return {type_url: self._type_status(found) for type_url, found in self._subscriptions.items()}

    def _begin(self, request: discovery.DeltaDiscoveryRequest) -> None:
        subscription = self._subscriptions[request.type_url] = Subscription(request.type_url, self._cache)
        self._sent[request.type_url] = _Sent()
        subscription.begin(request.resource_names_subscribe, request.initial_resource_versions)
        if request.type_url == EDS:
            self._rewarm(self._rewarming)
            self._rewarming = frozenset()

    def _judge(self, subscription: Subscription, request: discovery.DeltaDiscoveryRequest) -> None:
        push = self._under_way.get(request.response_nonce)
        if push is None or push.type_url != request.type_url:
            return
        del self._under_way[request.response_nonce]
        if request.HasField("error_detail"):
            self._refused(subscription, push, reason(request.error_detail.message))
        else:
            subscription.accept(push)
        self._release(push.hold)

    def _refused(self, subscription: Subscription, push: Push, message: str) -> None:
        for nonce in subscription.successors(push):
            self._bequeath(push.hold, nonce)
        if len(push.versions) > 1:
            doubtful = subscription.doubt(push)
            middle = (len(doubtful) + 1) // 2
            for names in filter(None, (doubtful[:middle], doubtful[middle:])):
                subscription.suspects.append(Suspects(names, push.hold))
                self._hold(push.hold)
        elif not push.versions or subscription.refuse(push, message):
            names = (*push.versions, *push.removed)
            self._outcomes.append(Rejected(push.type_url, names, message, push.generation))

    def _bequeath(self, hold: int, nonce: str) -> None:
        """Has a newer push of a refused resource hold back what the older one did: nothing of it is applied yet."""
        heir = self._under_way.get(nonce)
        if heir and hold and (not heir.hold or hold < heir.hold):
            self._hold(hold)
            self._release(heir.hold)
            self._under_way[nonce] = replace(heir, hold=hold)

    def _take_type(self, subscription: Subscription, hold: int) -> tuple[list[bytes], list[bytes]]:
        """The responses that bring resources of the type, and those that remove some."""
        additions: list[bytes] = []
        gone: set[str] = set()
        for suspects in subscription.suspects:
            due, lost = subscription.compare(suspects.names)
            gone.update(lost)
            additions += self._push(subscription, due, suspects.hold)
            self._release(suspects.hold)
        subscription.suspects.clear()
        unanswered = subscription.unanswered
        due, lost = subscription.compare_all()
        gone.update(lost)
        additions += self._push(subscription, due, hold)
        removals = [self._respond(subscription, (), sorted(gone), hold)] if gone else []
        if unanswered and not additions and not removals:
            additions.append(self._respond(subscription, (), (), hold))
        return additions, removals

    def _push(self, subscription: Subscription, names: list[str], hold: int) -> list[bytes]:
        if subscription.type_url == CDS:
            self._rewarm(names)
        apart = subscription.type_url in ONE_PER_RESPONSE and not subscription.empty
        size = 1 if apart else len(names) or 1
        return [
            self._respond(subscription, names[start : start + size], (), hold) for start in range(0, len(names), size)
        ]

    def _rewarm(self, clusters: Collection[str]) -> None:
        """Owes the endpoints of every cluster sent: Envoy makes an updated cluster wait for them, but does not ask.

        Without this the cluster is stuck for 15 s. That the endpoints have the cluster's name is a rule of this room.
        """
        endpoints = self._subscriptions.get(EDS)
        if endpoints:
            endpoints.owe(filter(endpoints.wants, clusters))
        else:
            self._rewarming |= frozenset(clusters)

    def _respond(self, subscription: Subscription, names: Iterable[str], gone: Iterable[str], hold: int) -> bytes:
        type_url, nonce = subscription.type_url, str(next(self._nonces))
        entries = {name: entry for name in names if (entry := self._cache.entry(type_url, name))}
        tail = discovery.DeltaDiscoveryResponse(type_url=type_url, nonce=nonce, removed_resources=gone)
        response = b"".join([*(entry.frame for entry in entries.values()), tail.SerializeToString()])
        versions = {name: entry.version for name, entry in entries.items()}
        push = Push(type_url, nonce, versions, tuple(gone), hold, self._cache.generation)
        subscription.pushed(push)
        self._under_way[nonce] = push
        self._hold(hold)
        self._count(push, len(response))
        return response

    def _count(self, push: Push, size: int) -> None:
        sent = self._sent[push.type_url]
        sent.resources += len(push.versions)
        sent.removals += len(push.removed)
        sent.responses += 1
        sent.bytes += size

    def _next_hold(self) -> int:
        """The lowest generation that must wait for what is sent now, or 0.

        An answer to a question belongs to whatever is not applied yet: a listener that is accepted asks for its routes,
        and is not complete without them.
        """
        asked = any(subscription.asked for subscription in self._subscriptions.values())
        lowest = (self._applied if asked else self._taken) + 1
        return lowest if lowest <= self._cache.generation else 0

    def _hold(self, generation: int) -> None:
        if generation:
            self._holds[generation] += 1

    def _release(self, generation: int) -> None:
        if generation:
            self._holds[generation] -= 1
            if not self._holds[generation]:
                del self._holds[generation]

    def _announce(self) -> None:
        """Tells of the generations that nothing under way concerns any more."""
        if not self.started or any(subscription.busy() for subscription in self._subscriptions.values()):
            return
        if LDS not in self._subscriptions and self._cache.names(LDS):
            return  # a proxy asks for its listeners only when the clusters are there: it is still starting
        applied = min(self._holds, default=self._taken + 1) - 1
        if applied > self._applied:
            self._applied = applied
            self._outcomes.append(Applied(applied))

    def _type_status(self, subscription: Subscription) -> TypeStatus:
        sent = self._sent[subscription.type_url]
        return TypeStatus(
            subscribed=subscription.count(),
            applied=subscription.applied(),
            rejected={name: refusal.message for name, refusal in subscription.rejected.items()},
            resources_sent=sent.resources,
            removals_sent=sent.removals,
            responses_sent=sent.responses,
            bytes_sent=sent.bytes,
        )


def _client(node: Node) -> Client:
    build = node.user_agent_build_version.version
    version = f"{build.major_number}.{build.minor_number}.{build.patch}"
    known = node.HasField("user_agent_build_version")
    return Client(node.id, node.user_agent_name, version if known else node.user_agent_version)
