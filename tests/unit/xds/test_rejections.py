"""What a rejection tells, what it does not tell, and what is sent after it."""

from __future__ import annotations

import pytest
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

from meshagent.xds.cache import Cache
from meshagent.xds.outcome import Applied, Rejected, reason
from meshagent.xds.types import CDS, EDS, LDS, RDS, SDS
from tests.unit.xds.proxy import Proxy


def test_each_listener_has_its_own_response_so_a_rejection_names_one() -> None:
    cache = Cache()
    cache.update({(LDS, "first"): b"1"})
    proxy = Proxy(cache)
    proxy.ask(LDS)
    proxy.settle()
    cache.update({(LDS, name): b"1" for name in "abc"})
    assert [[*brought] for _, brought, _ in proxy.take()] == [["a"], ["b"], ["c"]]
    first, second, third = proxy.last
    assert proxy.reject(second, "port in use") == [Rejected(LDS, ("b",), "port in use", 2)]
    assert proxy.accept(first, third) == [Applied(2)]
    assert proxy.take() == []
    status = proxy.stream.status()[LDS]
    assert (status.applied, status.rejected) == (3, {"b": "port in use"})


def test_a_client_without_listeners_gets_all_in_one_response_and_what_it_refuses_of_it_is_found() -> None:
    """An Envoy that follows another counts itself complete with the first response."""
    cache = Cache()
    cache.update({(LDS, name): b"1" for name in "abc"})
    proxy = Proxy(cache)
    assert [[*brought] for _, brought, _ in proxy.ask(LDS)] == [["a", "b", "c"]]
    proxy.reject(proxy.last[0], "port in use")
    assert [[*brought] for _, brought, _ in proxy.take()] == [["a"], ["b"], ["c"]]
    first, second, third = proxy.last
    assert proxy.reject(second, "port in use") == [Rejected(LDS, ("b",), "port in use", 1)]
    assert proxy.accept(first, third) == [Applied(1)]


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
    cache.update({(SDS, "a"): b"1", (SDS, "b"): b"1"})
    proxy = Proxy(cache)
    proxy.ask(SDS, "a", "b")
    proxy.settle()
    cache.update({(SDS, "a"): b"2", (SDS, "b"): b"2"})
    proxy.take()
    proxy.reject(proxy.last[0])
    cache.update({(SDS, "a"): b"1"}, [(SDS, "b")])
    assert proxy.take() == [("SDS", {"a": b"1"}, ()), ("SDS", {}, ("b",))]


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


def test_a_rejected_removal_is_reported_and_ends_the_wait() -> None:
    cache = Cache()
    cache.update({(CDS, "a"): b"1"})
    proxy = Proxy(cache)
    proxy.ask(CDS)
    proxy.settle()
    cache.update({}, [(CDS, "a")])
    proxy.take()
    assert proxy.reject(proxy.last[0], "why not") == [Rejected(CDS, ("a",), "why not", 2), Applied(2)]


def test_a_doubtful_resource_that_is_gone_when_it_is_asked_for_again_is_called_removed() -> None:
    cache = Cache()
    cache.update({(SDS, "a"): b"1", (SDS, "b"): b"1"})
    proxy = Proxy(cache)
    proxy.ask(SDS, "a", "b")
    proxy.reject(proxy.last[0])
    proxy.stream.receive(DeltaDiscoveryRequest(type_url=SDS, resource_names_unsubscribe=["a"]))
    proxy.stream.receive(DeltaDiscoveryRequest(type_url=SDS, resource_names_subscribe=["a"]))
    cache.update({}, [(SDS, "a")])
    assert proxy.take() == [("SDS", {"b": b"1"}, ()), ("SDS", {}, ("a",))]


def test_asking_for_the_wildcard_again_gets_what_was_rejected_once_more() -> None:
    cache = Cache()
    cache.update({(LDS, "l"): b"1"})
    proxy = Proxy(cache)
    proxy.ask(LDS, "*")
    proxy.reject(proxy.last[0])
    assert proxy.ask(LDS, "*") == [("LDS", {"l": b"1"}, ())]


def test_a_rejection_that_comes_after_the_removal_is_over_with_it() -> None:
    cache = Cache()
    cache.update({(RDS, "a"): b"1"})
    proxy = Proxy(cache)
    proxy.ask(RDS, "a")
    cache.update({}, [(RDS, "a")])
    assert proxy.take() == []
    (pushed,) = proxy.open.values()
    proxy.reject(pushed)
    assert proxy.stream.status()[RDS].rejected == {}


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (
            "Error adding/updating listener(s) l: duplicate address",
            "Error adding/updating listener(s) l: duplicate address",
        ),
        (
            'goo.gle/debugonly  \nname: "c"\n: Proto constraint validation failed (X)',
            "Proto constraint validation failed (X)",
        ),
        ('name: "s"\nprivate_key {\n  inline_string: "k"\n}\n: Proto constraint (X)\n', "Proto constraint (X)"),
    ],
)
def test_of_a_rejection_the_reason_is_kept_and_the_copy_of_the_resource_is_not(words: str, kept: str) -> None:
    assert reason(words) == kept


@pytest.mark.parametrize(
    "words",
    [
        'goo.gle/debugonly  \nname: "s"...(truncated)',
        'name: "s"\npassword {\n  inline_bytes: "hunter2"\n}...(truncated)',
    ],
)
def test_words_that_may_hold_a_key_are_withheld(words: str) -> None:
    cache = Cache()
    cache.update({(SDS, "s"): b"1"})
    proxy = Proxy(cache)
    proxy.ask(SDS, "s")
    rejected, _ = proxy.reject(proxy.last[0], words)
    assert isinstance(rejected, Rejected)
    assert "withheld" in rejected.message and "hunter2" not in rejected.message
    assert proxy.stream.status()[SDS].rejected == {"s": rejected.message}
