"""What a Prometheus answers becomes the same numbers as the agents' own."""

from __future__ import annotations

import pytest

from meshagent.ui.prometheus import Prometheus, pairs_of


def vector(value: str, source: str = "web", side: str = "outbound") -> dict:
    return {"metric": {"side": side, "source": source, "destination": "payments"}, "value": [0, value]}


def test_rates_errors_and_quantiles_come_together_by_pair():
    results = {
        "rps": [vector("40"), vector("5", "orders")],
        "errors": [vector("4")],
        "p99_ms": [vector("12.5"), vector("NaN", "orders")],
    }
    found = pairs_of(results)
    assert found["web", "payments"] == {
        "rps": 40.0,
        "error_ratio": 0.1,
        "p50_ms": None,
        "p99_ms": 12.5,
        "active": 0,
        "connections_per_s": 0.0,
    }
    assert found["orders", "payments"]["p99_ms"] is None


def test_the_callers_word_goes_and_who_is_not_told_apart_is_left_out():
    results = {
        "rps": [
            vector("30", side="inbound"),
            vector("40"),
            vector("7", "other", "inbound"),
            vector("3", "batch", "inbound"),
        ]
    }
    found = pairs_of(results)
    assert {pair[0]: row["rps"] for pair, row in found.items()} == {"web": 40.0, "batch": 3.0}


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://[", "nonsense"])
async def test_a_server_that_does_not_answer_is_missing(url):
    numbers = await Prometheus(url).numbers()
    assert (numbers.pairs, numbers.hosts) == ({}, ())
    assert "does not answer" in numbers.missing["Prometheus"]
