"""When a generation is called applied."""

from __future__ import annotations

from meshagent.xds.cache import Cache
from meshagent.xds.outcome import Applied
from meshagent.xds.types import CDS, EDS, LDS, RDS
from tests.unit.xds.proxy import Proxy, versions


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
