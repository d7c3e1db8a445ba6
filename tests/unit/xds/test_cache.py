"""The cache: versions are hashes of bytes, generations count what really changed."""

from __future__ import annotations

from collections.abc import Collection

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryResponse

from meshagent.xds.cache import Cache, Key
from meshagent.xds.types import CDS, ECDS, EDS, LDS, PUSH_ORDER, RDS, in_push_order, short_name


def test_a_cache_is_ready_after_its_first_update_even_an_empty_one() -> None:
    cache = Cache()
    assert (cache.ready, cache.generation) == (False, 0)
    assert cache.update({}) == 1
    assert (cache.ready, cache.generation) == (True, 1)


def test_an_update_that_changes_no_byte_keeps_the_generation_and_wakes_nobody() -> None:
    cache = Cache()
    cache.update({(CDS, "a"): b"1"})
    woken: list[Collection[Key]] = []
    cache.watch(woken.append)
    assert cache.update({(CDS, "a"): b"1"}, [(CDS, "never there")]) == 1
    assert woken == []


def test_watchers_are_told_exactly_the_keys_that_moved_until_they_stop() -> None:
    cache = Cache()
    cache.update({(CDS, "a"): b"1", (EDS, "a"): b"1"})
    woken: list[Collection[Key]] = []
    stop = cache.watch(woken.append)
    assert cache.update({(CDS, "a"): b"1", (CDS, "b"): b"1"}, [(EDS, "a"), (RDS, "x")]) == 2
    stop()
    cache.update({(CDS, "a"): b"2"})
    assert [sorted(keys) for keys in woken] == [[(CDS, "b"), (EDS, "a")]]


def test_the_version_is_a_hash_of_the_bytes_the_same_in_every_process() -> None:
    one, other = Cache(), Cache()
    one.update({(CDS, "a"): b"first"})
    one.update({(CDS, "a"): b"bytes"})
    other.update({(CDS, "a"): b"bytes"})
    entry = one.entry(CDS, "a")
    assert entry == other.entry(CDS, "a")
    assert entry is not None and entry.version == "e8b5b900f48084d3"


def test_a_key_both_changed_and_removed_is_changed() -> None:
    cache = Cache()
    cache.update({(CDS, "a"): b"1"}, [(CDS, "a")])
    assert list(cache.names(CDS)) == ["a"]
    cache.update({}, [(CDS, "a")])
    assert cache.entry(CDS, "a") is None


def test_frames_join_to_one_response() -> None:
    cache = Cache()
    cache.update({(CDS, "a"): b"1", (CDS, "b"): b"2"})
    frames = [entry.frame for name in ("a", "b") if (entry := cache.entry(CDS, name))]
    tail = DeltaDiscoveryResponse(type_url=CDS, nonce="7").SerializeToString()
    response = DeltaDiscoveryResponse.FromString(b"".join([*frames, tail]))
    assert (response.type_url, response.nonce) == (CDS, "7")
    assert [(found.name, found.resource.type_url, found.resource.value) for found in response.resources] == [
        ("a", CDS, b"1"),
        ("b", CDS, b"2"),
    ]


def test_types_are_pushed_clusters_first_and_filters_before_listeners() -> None:
    unlisted = "type.googleapis.com/envoy.service.runtime.v3.Runtime"
    assert in_push_order([unlisted, RDS, LDS, ECDS, EDS, CDS]) == [CDS, EDS, ECDS, LDS, RDS, unlisted]
    assert [short_name(type_url) for type_url in (*PUSH_ORDER, unlisted)] == [
        "CDS", "EDS", "SDS", "ECDS", "LDS", "RDS", "Runtime"
    ]  # fmt: skip
