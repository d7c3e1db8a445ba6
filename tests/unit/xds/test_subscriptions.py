"""Who is sent what, in which order, and when again."""

from __future__ import annotations

import pytest
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest

from meshagent.xds.cache import Cache
from meshagent.xds.outcome import Applied
from meshagent.xds.status import Client
from meshagent.xds.stream import DeltaStream
from meshagent.xds.types import CDS, ECDS, EDS, LDS, RDS, SDS
from tests.unit.xds.proxy import Proxy, versions


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
    assert proxy.ask(EDS, "x") == [("EDS", {}, ("x",))]
    assert proxy.ask(SDS, "x") == [("SDS", {}, ("x",))]
    cache.update({(SDS, "x"): b"key"})
    assert proxy.take() == [("SDS", {"x": b"key"}, ())]


@pytest.mark.parametrize(("type_url", "short"), [(ECDS, "ECDS"), (RDS, "RDS")])
def test_what_keeps_a_warming_listener_down_is_never_called_removed(type_url: str, short: str) -> None:
    cache = Cache()
    cache.update({})
    proxy = Proxy(cache)
    assert proxy.ask(type_url, "x") == []
    cache.update({(type_url, "x"): b"deny"})
    assert proxy.take() == [(short, {"x": b"deny"}, ())]
    cache.update({}, [(type_url, "x")])
    assert proxy.take() == []
    assert proxy.ask(type_url, "x") == []
    cache.update({(type_url, "x"): b"allow"})
    assert proxy.take() == [(short, {"x": b"allow"}, ())]


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
    cache.update({(LDS, "same"): b"1", (LDS, "changed"): b"2", (LDS, "new"): b"1", (SDS, "same"): b"1"})
    proxy = Proxy(cache)
    held = {"same": versions(cache, LDS)["same"], "changed": "other", "gone": "other"}
    assert proxy.ask(LDS, held=held) == [
        ("LDS", {}, ("gone",)),
        ("LDS", {"changed": b"2"}, ()),
        ("LDS", {"new": b"1"}, ()),
    ]
    held = versions(cache, SDS) | {"gone": "other", "nobody asked": "other"}
    assert proxy.ask(SDS, "same", "gone", held=held) == [("SDS", {}, ("gone",))]


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
