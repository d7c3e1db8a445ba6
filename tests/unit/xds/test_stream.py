"""The protocol without the wire: what is sent when, and what is known of it afterwards."""

from __future__ import annotations

from collections.abc import Mapping

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

from meshagent.xds.cache import Cache
from meshagent.xds.outcome import Applied, Outcome, Rejected
from meshagent.xds.status import Client
from meshagent.xds.stream import DeltaStream
from meshagent.xds.types import CDS, ECDS, EDS, LDS, RDS, SDS, short_name

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


def test_nothing_is_answered_before_the_first_snapshot_and_all_of_it_afterwards() -> None:
    cache = Cache()
    proxy = Proxy(cache)
    assert proxy.ask(CDS, held={"old": "1"}) == []
    assert proxy.ask(EDS, "a") == []
    cache.update({(CDS, "a"): b"cluster", (EDS, "a"): b"endpoints"})
    assert proxy.take() == [
        ("CDS", {"a": b"cluster"}, ()),
        ("EDS", {"a": b"endpoints"}, ()),
        ("CDS", {}, ("old",)),
    ]


def test_an_empty_wildcard_is_answered_with_an_empty_response_once() -> None:
    cache = Cache()
    cache.update({})
    proxy = Proxy(cache)
    assert proxy.ask(CDS) == [("CDS", {}, ())]
    assert proxy.ask(LDS, "*") == [("LDS", {}, ())]
    proxy.accept()
    assert proxy.take() == []


def test_an_unknown_name_is_called_removed_at_once_and_sent_when_it_comes() -> None:
    cache = Cache()
    cache.update({})
    proxy = Proxy(cache)
    for type_url, short in ((EDS, "EDS"), (RDS, "RDS"), (SDS, "SDS")):
        assert proxy.ask(type_url, "x") == [(short, {}, ("x",))]
    cache.update({(RDS, "x"): b"routes"})
    assert proxy.take() == [("RDS", {"x": b"routes"}, ())]


def test_an_unknown_extension_configuration_is_never_called_removed() -> None:
    cache = Cache()
    cache.update({})
    proxy = Proxy(cache)
    assert proxy.ask(ECDS, "x") == []
    cache.update({(ECDS, "x"): b"deny"})
    assert proxy.take() == [("ECDS", {"x": b"deny"}, ())]
    cache.update({}, [(ECDS, "x")])
    assert proxy.take() == []
    assert proxy.ask(ECDS, "x") == []
    cache.update({(ECDS, "x"): b"allow"})
    assert proxy.take() == [("ECDS", {"x": b"allow"}, ())]


def test_additions_go_in_order_and_removals_in_reverse_but_listeners_make_room_first() -> None:
    cache = Cache()
    everything = [(type_url, "old") for type_url in (CDS, EDS, SDS, ECDS, LDS, RDS)]
    cache.update(dict.fromkeys(everything, b"1"))
    proxy = Proxy(cache)
    for type_url in (RDS, ECDS, SDS, EDS):
        proxy.ask(type_url, "old", "new")
    proxy.ask(LDS)
    proxy.ask(CDS)
    proxy.settle()
    cache.update({(type_url, "new"): b"2" for type_url, _ in everything}, everything)
    assert [(short, [*brought], gone) for short, brought, gone in proxy.take()] == [
        ("CDS", ["new"], ()),
        ("EDS", ["new"], ()),
        ("SDS", ["new"], ()),
        ("ECDS", ["new"], ()),
        ("LDS", [], ("old",)),
        ("LDS", ["new"], ()),
        ("RDS", ["new"], ()),
        ("RDS", [], ("old",)),
        ("SDS", [], ("old",)),
        ("EDS", [], ("old",)),
        ("CDS", [], ("old",)),
    ]


def test_every_update_of_a_cluster_is_followed_by_its_endpoints_though_they_did_not_change() -> None:
    cache = Cache()
    cache.update({(CDS, name): b"1" for name in "ab"} | {(EDS, name): b"endpoints" for name in "ab"})
    proxy = Proxy(cache)
    proxy.ask(CDS)
    proxy.ask(EDS, "a", "b")
    proxy.settle()
    cache.update({(CDS, "a"): b"2"})
    assert proxy.take() == [("CDS", {"a": b"2"}, ()), ("EDS", {"a": b"endpoints"}, ())]


def test_a_cluster_that_changed_while_the_client_was_away_gets_its_endpoints_again() -> None:
    cache = Cache()
    cache.update({(CDS, name): b"1" for name in "ab"} | {(EDS, name): b"endpoints" for name in "ab"})
    held = versions(cache, CDS)
    cache.update({(CDS, "a"): b"2"})
    proxy = Proxy(cache)
    assert proxy.ask(CDS, held=held) == [("CDS", {"a": b"2"}, ())]
    assert proxy.ask(EDS, "a", "b", held=versions(cache, EDS)) == [("EDS", {"a": b"endpoints"}, ())]
    proxy.reject(proxy.last[0])
    cache.update({}, [(EDS, "a")])
    assert proxy.take() == [("EDS", {}, ("a",))], "it still has those that it came with"


def test_a_client_that_comes_back_with_everything_is_sent_no_resource() -> None:
    cache = Cache()
    cache.update({(type_url, name): b"1" for type_url in (CDS, EDS, LDS, RDS, SDS, ECDS) for name in "abc"})
    proxy = Proxy(cache)
    seen = proxy.ask(CDS, held=versions(cache, CDS)) + proxy.ask(LDS, held=versions(cache, LDS))
    for type_url in (EDS, RDS, SDS, ECDS):
        seen += proxy.ask(type_url, "a", "b", "c", held=versions(cache, type_url))
    assert seen == [("CDS", {}, ()), ("LDS", {}, ())]
    status = proxy.stream.status()
    assert {found.resources_sent for found in status.values()} == {0}
    assert {found.applied for found in status.values()} == {3}
    assert sum(found.bytes_sent for found in status.values()) < 150


def test_a_client_that_comes_back_is_told_what_is_gone_and_what_is_new() -> None:
    cache = Cache()
    cache.update({(LDS, "same"): b"1", (LDS, "changed"): b"2", (LDS, "new"): b"1", (RDS, "same"): b"1"})
    proxy = Proxy(cache)
    held = {"same": versions(cache, LDS)["same"], "changed": "other", "gone": "other"}
    assert proxy.ask(LDS, held=held) == [
        ("LDS", {}, ("gone",)),
        ("LDS", {"changed": b"2"}, ()),
        ("LDS", {"new": b"1"}, ()),
    ]
    held = versions(cache, RDS) | {"gone": "other", "nobody asked": "other"}
    assert proxy.ask(RDS, "same", "gone", held=held) == [("RDS", {}, ("gone",))]


def test_the_wildcard_of_a_first_request_without_names_outlives_a_later_name() -> None:
    cache = Cache()
    cache.update({(CDS, "a"): b"1", (CDS, "b"): b"1"})
    proxy = Proxy(cache)
    assert proxy.ask(CDS) == [("CDS", {"a": b"1", "b": b"1"}, ())]
    assert proxy.ask(CDS, "a") == [("CDS", {"a": b"1"}, ())]
    cache.update({(CDS, "b"): b"2"})
    assert proxy.take() == [("CDS", {"b": b"2"}, ())]
    assert proxy.ask(CDS, drop=("*",)) == []
    cache.update({(CDS, "a"): b"3", (CDS, "b"): b"3"})
    assert proxy.take() == [("CDS", {"a": b"3"}, ())]


def test_a_client_that_named_resources_can_add_the_wildcard_and_drop_it() -> None:
    cache = Cache()
    cache.update({(LDS, "a"): b"1", (LDS, "b"): b"1"})
    proxy = Proxy(cache)
    assert proxy.ask(LDS, "a") == [("LDS", {"a": b"1"}, ())]
    assert ("LDS", {"b": b"1"}, ()) in proxy.ask(LDS, "*")
    assert proxy.stream.status()[LDS].subscribed == 2
    proxy.ask(LDS, drop=("*",))
    assert proxy.stream.status()[LDS].subscribed == 1
    cache.update({(LDS, "b"): b"2"})
    assert proxy.take() == []


def test_a_name_dropped_under_the_wildcard_is_answered_with_its_state() -> None:
    cache = Cache()
    cache.update({(CDS, "a"): b"1"})
    proxy = Proxy(cache)
    proxy.ask(CDS, "*", "a", "unknown")
    assert proxy.ask(CDS, drop=("a", "unknown")) == [("CDS", {"a": b"1"}, ()), ("CDS", {}, ("unknown",))]


def test_only_clusters_and_listeners_have_a_wildcard() -> None:
    cache = Cache()
    cache.update({(SDS, "key"): b"secret"})
    proxy = Proxy(cache)
    assert proxy.ask(SDS) == []
    assert proxy.ask(SDS, "*") == [("SDS", {}, ("*",))]


def test_a_name_asked_for_again_is_sent_again_and_a_dropped_one_never() -> None:
    cache = Cache()
    cache.update({(RDS, "a"): b"1"})
    proxy = Proxy(cache)
    proxy.ask(RDS, "a")
    proxy.settle()
    assert proxy.ask(RDS, "a") == [("RDS", {"a": b"1"}, ())]
    assert proxy.ask(RDS, drop=("a",)) == []
    cache.update({(RDS, "a"): b"2"})
    assert proxy.take() == []
    assert proxy.stream.status()[RDS].applied == 0
    assert proxy.ask(RDS, "a") == [("RDS", {"a": b"2"}, ())]


def test_a_removed_resource_that_comes_back_with_the_same_bytes_is_sent() -> None:
    cache = Cache()
    cache.update({(SDS, "a"): b"1"})
    proxy = Proxy(cache)
    proxy.ask(SDS, "a")
    cache.update({}, [(SDS, "a")])
    assert proxy.take() == [("SDS", {}, ("a",))]
    cache.update({(SDS, "a"): b"1"})
    assert proxy.take() == [("SDS", {"a": b"1"}, ())]


def test_a_burst_is_folded_into_one_response() -> None:
    cache = Cache()
    cache.update({})
    proxy = Proxy(cache)
    proxy.ask(CDS)
    proxy.settle()
    for value in (b"1", b"2", b"3"):
        cache.update({(CDS, "a"): value, (CDS, "b"): value})
    cache.update({}, [(CDS, "b")])
    assert proxy.take() == [("CDS", {"a": b"3"}, ())]
    assert proxy.accept() == [Applied(5)]


def test_each_listener_has_its_own_response_so_a_rejection_names_one() -> None:
    cache = Cache()
    cache.update({(LDS, name): b"1" for name in "abc"})
    proxy = Proxy(cache)
    assert [[*brought] for _, brought, _ in proxy.ask(LDS)] == [["a"], ["b"], ["c"]]
    first, second, third = proxy.last
    assert proxy.reject(second, "port in use") == [Rejected(LDS, ("b",), "port in use", 1)]
    assert proxy.accept(first, third) == [Applied(1)]
    assert proxy.take() == []
    status = proxy.stream.status()[LDS]
    assert (status.applied, status.rejected) == (2, {"b": "port in use"})


def test_rejected_bytes_are_sent_again_only_after_a_change() -> None:
    cache = Cache()
    cache.update({(RDS, "a"): b"good"})
    proxy = Proxy(cache)
    proxy.ask(RDS, "a")
    proxy.settle()
    cache.update({(RDS, "a"): b"bad"})
    proxy.take()
    proxy.reject(proxy.last[0])
    cache.update({(CDS, "unrelated"): b"1"})
    assert proxy.take() == []
    cache.update({(RDS, "a"): b"good"})
    assert proxy.take() == [], "the client still holds these bytes"
    assert proxy.stream.status()[RDS].rejected == {}
    cache.update({(RDS, "a"): b"better"})
    assert proxy.take() == [("RDS", {"a": b"better"}, ())]


def test_a_rejection_of_one_type_holds_back_no_other() -> None:
    cache = Cache()
    cache.update({(LDS, "a"): b"1", (EDS, "a"): b"1"})
    proxy = Proxy(cache)
    proxy.ask(EDS, "a")
    proxy.settle()
    proxy.ask(LDS)
    proxy.reject(proxy.last[0])
    cache.update({(EDS, "a"): b"2"})
    assert proxy.take() == [("EDS", {"a": b"2"}, ())]


def test_a_rejected_response_of_several_is_halved_until_the_culprit_stands_alone() -> None:
    cache = Cache()
    cache.update({(EDS, name): b"1" for name in "abcde"})
    proxy = Proxy(cache)
    proxy.ask(EDS, *"abcde")
    sizes, outcomes = [], []
    while proxy.last:
        responses, proxy.last = proxy.last, []
        for response in responses:
            names = [resource.name for resource in response.resources]
            sizes.append(len(names))
            outcomes += proxy.reject(response, "bad: d") if "d" in names else proxy.accept(response)
        proxy.take()
    assert sizes == [5, 3, 2, 1, 1]
    assert outcomes == [Rejected(EDS, ("d",), "bad: d", 1), Applied(1)]
    status = proxy.stream.status()[EDS]
    assert (status.applied, set(status.rejected)) == (4, {"d"})


def test_a_doubtful_resource_is_sent_even_if_the_cache_went_back_to_what_was_accepted() -> None:
    cache = Cache()
    cache.update({(RDS, "a"): b"1", (RDS, "b"): b"1"})
    proxy = Proxy(cache)
    proxy.ask(RDS, "a", "b")
    proxy.settle()
    cache.update({(RDS, "a"): b"2", (RDS, "b"): b"2"})
    proxy.take()
    proxy.reject(proxy.last[0])
    cache.update({(RDS, "a"): b"1"}, [(RDS, "b")])
    assert proxy.take() == [("RDS", {"a": b"1"}, ()), ("RDS", {}, ("b",))]


def test_what_a_rejected_response_may_have_left_behind_is_not_forgotten_when_newer_bytes_are_refused_too() -> None:
    cache = Cache()
    cache.update({(RDS, "a"): b"1", (RDS, "b"): b"1"})
    proxy = Proxy(cache)
    proxy.ask(RDS, "a", "b")
    proxy.settle()
    cache.update({(RDS, "a"): b"2", (RDS, "b"): b"2"})
    proxy.take()
    (both,) = proxy.last
    cache.update({(RDS, "a"): b"bad"})
    proxy.take()
    (bad,) = proxy.last
    proxy.reject(both)
    proxy.reject(bad)
    assert proxy.stream.status()[RDS].applied == 0
    proxy.settle()
    cache.update({(RDS, "a"): b"1"})
    assert proxy.take() == [("RDS", {"a": b"1"}, ())]


def test_what_is_refused_alone_was_refused_among_others_too() -> None:
    cache = Cache()
    cache.update({(RDS, "a"): b"1", (RDS, "b"): b"1"})
    proxy = Proxy(cache)
    proxy.ask(RDS, "a", "b")
    proxy.settle()
    cache.update({(RDS, "a"): b"bad", (RDS, "b"): b"2"})
    proxy.take()
    proxy.reject(proxy.last[0])
    proxy.take()
    proxy.reject(proxy.last[0])
    proxy.accept(proxy.last[1])
    assert proxy.stream.status()[RDS].applied == 2
    cache.update({(RDS, "a"): b"1"})
    assert proxy.take() == [], "the client never let go of these bytes"


def test_an_extension_configuration_asked_for_while_it_was_gone_is_sent_though_its_bytes_are_the_old_ones() -> None:
    cache = Cache()
    cache.update({(ECDS, "x"): b"deny"})
    proxy = Proxy(cache)
    proxy.ask(ECDS, "x")
    proxy.settle()
    cache.update({}, [(ECDS, "x")])
    assert proxy.ask(ECDS, "x") == []
    cache.update({(ECDS, "x"): b"deny"})
    assert proxy.take() == [("ECDS", {"x": b"deny"}, ())]


def test_a_warming_cluster_whose_endpoints_were_rejected_hears_when_they_are_gone() -> None:
    cache = Cache()
    cache.update({(CDS, "a"): b"1", (EDS, "a"): b"bad"})
    proxy = Proxy(cache)
    proxy.ask(CDS)
    proxy.settle()
    proxy.ask(EDS, "a")
    proxy.reject(proxy.last[0])
    cache.update({(CDS, "a"): b"2"})
    assert proxy.take() == [("CDS", {"a": b"2"}, ())]
    cache.update({}, [(EDS, "a")])
    assert proxy.take() == [("EDS", {}, ("a",))]


def test_the_rejection_of_a_superseded_response_leaves_the_word_to_the_newer_one() -> None:
    cache = Cache()
    cache.update({(RDS, "a"): b"1"})
    proxy = Proxy(cache)
    proxy.ask(RDS, "a")
    (old,) = proxy.last
    cache.update({(RDS, "a"): b"2"})
    proxy.take()
    (new,) = proxy.last
    assert proxy.reject(old) == []
    assert proxy.take() == []
    assert proxy.stream.applied == 0
    assert proxy.accept(new) == [Applied(2)]
    assert proxy.stream.status()[RDS].rejected == {}


def test_a_newer_response_of_one_doubtful_resource_holds_back_what_the_older_did() -> None:
    cache = Cache()
    cache.update({(RDS, "a"): b"1", (RDS, "b"): b"1"})
    proxy = Proxy(cache)
    proxy.ask(RDS, "a", "b")
    (old,) = proxy.last
    cache.update({(RDS, "a"): b"2"})
    proxy.take()
    (new,) = proxy.last
    assert proxy.reject(old) == []
    assert proxy.take() == [("RDS", {"b": b"1"}, ())]
    assert proxy.accept() == []
    assert proxy.accept(new) == [Applied(2)]


def test_a_verdict_with_an_unknown_nonce_is_ignored() -> None:
    cache = Cache()
    cache.update({(RDS, "a"): b"1"})
    proxy = Proxy(cache)
    proxy.ask(RDS, "a")
    stale = DeltaDiscoveryResponse(type_url=RDS, nonce="of another stream")
    other = DeltaDiscoveryResponse(type_url=RDS, nonce="1")
    other.type_url = EDS
    proxy.ask(EDS)
    assert proxy.reject(stale) == []
    assert proxy.accept(other) == []
    assert proxy.stream.applied == 0


def test_asking_again_for_a_rejected_resource_gets_it_once_more() -> None:
    cache = Cache()
    cache.update({(RDS, "a"): b"1", (LDS, "l"): b"1"})
    proxy = Proxy(cache)
    proxy.ask(RDS, "a")
    proxy.reject(proxy.last[0])
    assert proxy.ask(RDS, "a") == [("RDS", {"a": b"1"}, ())]


def test_what_was_rejected_can_be_retried_by_type() -> None:
    cache = Cache()
    cache.update({(RDS, "a"): b"1", (LDS, "l"): b"1"})
    proxy = Proxy(cache)
    for type_url, name in ((RDS, "a"), (LDS, "l")):
        proxy.ask(type_url, name)
        proxy.reject(proxy.last[0])
    assert proxy.stream.retry_rejected(CDS) == 0
    assert proxy.stream.retry_rejected(LDS) == 1
    assert proxy.take() == [("LDS", {"l": b"1"}, ())]
    assert proxy.stream.retry_rejected() == 1
    assert proxy.take() == [("RDS", {"a": b"1"}, ())]


def test_a_generation_that_concerns_nothing_subscribed_is_applied_at_once() -> None:
    cache = Cache()
    cache.update({})
    proxy = Proxy(cache)
    proxy.ask(CDS)
    proxy.settle()
    assert cache.update({(RDS, "nobody asked"): b"1"}) == 2
    assert proxy.take() == []
    assert proxy.stream.outcomes() == [Applied(2)]


def test_a_generation_is_applied_when_the_last_of_its_responses_is() -> None:
    cache = Cache()
    cache.update({})
    proxy = Proxy(cache)
    proxy.ask(CDS)
    proxy.ask(RDS, "r")
    proxy.settle()
    cache.update({(CDS, "a"): b"1", (RDS, "r"): b"1"})
    proxy.take()
    clusters, routes = proxy.last
    assert proxy.accept(routes) == []
    assert proxy.accept(clusters) == [Applied(2)]


def test_a_cluster_whose_verdict_is_late_holds_back_the_word_but_not_the_pushes() -> None:
    cache = Cache()
    cache.update({})
    proxy = Proxy(cache)
    proxy.ask(CDS)
    proxy.ask(RDS, "r")
    proxy.settle()
    cache.update({(CDS, "warming"): b"1"})
    proxy.take()
    (late,) = proxy.last
    for generation, value in ((3, b"1"), (4, b"2")):
        assert cache.update({(RDS, "r"): value}) == generation
        assert proxy.take() == [("RDS", {"r": value}, ())]
        assert proxy.accept() == []
    assert proxy.accept(late) == [Applied(4)]


def test_later_responses_do_not_hold_back_an_earlier_generation() -> None:
    cache = Cache()
    cache.update({})
    proxy = Proxy(cache)
    proxy.ask(CDS)
    proxy.settle()
    taken = []
    for value in (b"1", b"2", b"3"):
        cache.update({(CDS, "a"): value})
        proxy.take()
        taken += proxy.last
    assert [proxy.accept(response) for response in taken] == [[Applied(2)], [Applied(3)], [Applied(4)]]


def test_a_starting_proxy_has_applied_nothing_until_its_listeners_and_what_they_ask_for_are_there() -> None:
    cache = Cache()
    cache.update({(CDS, "a"): b"1", (EDS, "a"): b"1", (LDS, "l"): b"1", (RDS, "r"): b"1"})
    proxy = Proxy(cache)
    proxy.ask(CDS)
    assert proxy.accept() == []
    proxy.ask(EDS, "a")
    assert proxy.accept() == []
    proxy.ask(LDS)
    (listener,) = proxy.last
    proxy.ask(RDS, "r")
    assert proxy.accept(listener) == []
    assert proxy.accept() == [Applied(1)]


def test_a_returning_proxy_has_applied_nothing_until_it_has_said_all_that_it_wants() -> None:
    cache = Cache()
    cache.update({(LDS, "l"): b"1", (RDS, "r"): b"now"})
    proxy = Proxy(cache)
    proxy.ask(CDS)
    clusters = proxy.last
    proxy.ask(LDS, held=versions(cache, LDS))
    listeners = proxy.last
    proxy.ask(RDS, "r", held={"r": "then"})
    assert proxy.accept(*clusters, *listeners) == []
    assert proxy.accept() == [Applied(1)]


def test_a_rejected_removal_is_reported_and_ends_the_wait() -> None:
    cache = Cache()
    cache.update({(CDS, "a"): b"1"})
    proxy = Proxy(cache)
    proxy.ask(CDS)
    proxy.settle()
    cache.update({}, [(CDS, "a")])
    proxy.take()
    assert proxy.reject(proxy.last[0], "why not") == [Rejected(CDS, ("a",), "why not", 2), Applied(2)]


def test_a_type_that_this_room_never_heard_of_is_served_like_any_other() -> None:
    runtime = "type.googleapis.com/envoy.service.runtime.v3.Runtime"
    cache = Cache()
    cache.update({(runtime, "layer"): b"1"})
    proxy = Proxy(cache)
    assert proxy.ask(runtime, "layer", "other") == [("Runtime", {"layer": b"1"}, ()), ("Runtime", {}, ("other",))]


def test_the_counters_run_from_the_start_of_the_stream() -> None:
    cache = Cache()
    cache.update({(CDS, "a"): b"1", (CDS, "b"): b"1"})
    proxy = Proxy(cache)
    proxy.ask(CDS)
    proxy.settle()
    cache.update({(CDS, "a"): b"2"}, [(CDS, "b")])
    proxy.take()
    status = proxy.stream.status()[CDS]
    assert (status.subscribed, status.applied) == (1, 2)
    assert (status.resources_sent, status.removals_sent, status.responses_sent) == (3, 1, 3)
    assert status.bytes_sent > 200


def test_a_client_says_who_it_is_in_its_first_request() -> None:
    stream = DeltaStream(Cache())
    assert stream.client == Client()
    request = DeltaDiscoveryRequest(type_url=CDS)
    request.node.id = "vm-1"
    request.node.user_agent_name = "envoy"
    version = request.node.user_agent_build_version.version
    version.major_number, version.minor_number, version.patch = 1, 40, 2
    stream.receive(request)
    stream.receive(DeltaDiscoveryRequest(type_url=LDS))
    assert stream.client == Client("vm-1", "envoy", "1.40.2")


def test_a_client_without_a_build_version_may_name_one_in_words() -> None:
    stream = DeltaStream(Cache())
    request = DeltaDiscoveryRequest(type_url=CDS)
    request.node.id, request.node.user_agent_name, request.node.user_agent_version = "x", "gRPC Go", "1.70"
    stream.receive(request)
    assert stream.client == Client("x", "gRPC Go", "1.70")
