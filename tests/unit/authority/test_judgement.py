"""Decisions of the authority that need no clock, network or disk of their own."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshagent.authority.admission import refusal
from meshagent.authority.listening import LONGEST_CONNECTION, MOST_CONNECTIONS, overdue
from meshagent.authority.rates import MOST_KEPT, Rate
from meshagent.authority.requests import EnrolRequest, RenewRequest, SignRequest, parse_request
from meshagent.authority.verdict import holder_problem, longest, service_refusal, workload_refusal
from meshagent.errors import UsageProblem
from meshagent.state.enrolment import GrantRecord, TokenRecord

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
GRANT = GrantRecord(host="vm-1", services=("web", "batch"), denied_services=("batch",), key_sha256="aa", at=NOW)
TOKEN = TokenRecord(host="vm-1", services=("web",), expires_at=NOW + MINUTE, created_by="ann", at=NOW)
DOMAIN = "mesh.internal"


@pytest.mark.parametrize(
    ("token", "grant", "host", "now", "reason"),
    [
        (TOKEN, None, "vm-1", NOW, ""),
        (TOKEN, GRANT, "vm-1", NOW, ""),
        (None, None, "vm-1", NOW, "not known"),
        (TOKEN, None, "vm-10", NOW, "another host"),
        (TOKEN, None, "vm-1", NOW + MINUTE, "ended at"),
        (TOKEN.model_copy(update={"used_at": NOW}), None, "vm-1", NOW, "used already"),
        (TOKEN.model_copy(update={"used_at": NOW}), None, "vm-1", NOW + MINUTE, "used already"),
        (TOKEN, GRANT.model_copy(update={"denied": True}), "vm-1", NOW, "denied"),
    ],
)
def test_a_token_lets_one_host_in_once_in_its_time(token, grant, host, now, reason):
    said = refusal(token, grant, host, now)
    assert (reason in said) if reason else said == ""


def test_a_host_is_certified_for_exactly_what_it_was_granted():
    def judged(asked: str, grant=GRANT, key: str = "aa") -> str:
        return service_refusal(asked, DOMAIN, grant, key)

    assert judged("spiffe://mesh.internal/svc/web") == ""
    assert "may not be payments" in judged("spiffe://mesh.internal/svc/payments")
    assert "may not be batch" in judged("spiffe://mesh.internal/svc/batch")
    assert "no grant" in judged("spiffe://mesh.internal/svc/web", None)
    assert "another key" in judged("spiffe://mesh.internal/svc/web", key="bb")
    assert "denied" in judged("spiffe://mesh.internal/svc/web", GRANT.model_copy(update={"denied": True}))


@given(st.text(max_size=80))
def test_no_other_text_than_the_identity_itself_is_certified(text):
    for asked in (
        text,
        f"spiffe://{text}/svc/web",
        f"spiffe://mesh.internal/svc/{text}",
        f"spiffe://mesh.internal/{text}",
    ):
        if asked != "spiffe://mesh.internal/svc/web":
            assert service_refusal(asked, DOMAIN, GRANT, "aa")
            assert workload_refusal(asked, DOMAIN, frozenset({"web"}))


def test_a_workload_is_certified_for_the_services_of_its_rules():
    assert workload_refusal("spiffe://mesh.internal/svc/web", DOMAIN, frozenset({"web"})) == ""
    assert workload_refusal("spiffe://mesh.internal/svc/web", DOMAIN, frozenset({"batch"}))


def test_a_grant_without_a_key_is_for_whoever_holds_the_hosts_certificate():
    assert holder_problem(GRANT.model_copy(update={"key_sha256": ""}), "bb") == ""


def test_the_shorter_of_two_lives_holds():
    assert longest(GRANT, 2 * MINUTE) == 2 * MINUTE
    assert longest(GRANT.model_copy(update={"max_ttl_seconds": 60}), 2 * MINUTE) == MINUTE


def test_a_rate_lets_a_burst_through_and_then_as_many_as_it_says():
    rate = Rate(60)
    assert [rate.take("a", 0.0) for _ in range(21)] == [True] * 20 + [False]
    assert [rate.take("a", at) for at in (0.5, 1.0, 1.1, 2.0)] == [False, True, False, True]
    assert rate.take("b", 2.0), "another asker has a bucket of its own"
    assert sum(rate.take("a", 1000.0) for _ in range(100)) == 20, "silence saves up no more than one burst"


def test_a_slow_rate_lets_three_through_at_once():
    rate = Rate(1)
    assert [rate.take("a", 0.0) for _ in range(4)] == [True, True, True, False]
    assert not rate.take("a", 59.0) and rate.take("a", 61.0)


def test_a_rate_remembers_so_many_askers_and_judges_more_as_one():
    rate = Rate(1)
    for place in range(MOST_KEPT):
        rate.take(str(place), 0.0)
    assert [rate.take(f"new-{place}", 0.0) for place in range(5)] == [True, True, True, False, False]
    assert rate.take("again", 1e6), "those who were silent long enough are forgotten"


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (EnrolRequest, {"token": "x" * 20, "host": "vm-1", "csr": "c"}),
        (RenewRequest, {"csr": "c"}),
        (SignRequest, {"csr": "c", "spiffe_id": "s", "ttl_seconds": 60}),
    ],
)
def test_requests_are_read_and_nothing_beside_them(model, body):
    assert parse_request(model, json.dumps(body).encode())
    bad = [
        body | {"more": 1},
        {key: value for key, value in body.items() if key != "csr"},
        body | {"csr": "c" * 20_000},
        body | {"csr": None},
        [body],
    ]
    for each in bad:
        with pytest.raises(UsageProblem):
            parse_request(model, json.dumps(each).encode())


@given(st.binary(max_size=200))
def test_no_bytes_are_read_as_a_request(body):
    with pytest.raises(UsageProblem):
        parse_request(EnrolRequest, body)


@pytest.mark.parametrize("ttl", ["0", "-5", "1e400", "NaN", "true", '"60"'])
def test_a_life_must_be_a_number_above_nothing(ttl):
    with pytest.raises(UsageProblem):
        parse_request(SignRequest, f'{{"csr": "c", "spiffe_id": "s", "ttl_seconds": {ttl}}}'.encode())


def test_a_refused_request_repeats_no_secret():
    with pytest.raises(UsageProblem) as caught:
        parse_request(EnrolRequest, json.dumps({"token": "secret" * 100, "host": "vm-1", "csr": "c"}).encode())
    assert "secret" not in str(caught.value)


def test_slow_connections_and_too_many_of_them_are_ended_the_oldest_first():
    seen = [("young", 100.0), ("old", 100.0 - LONGEST_CONNECTION - 1), ("middle", 90.0)]
    assert overdue(seen, 100.0) == ["old"]
    crowd = [(str(place), float(place)) for place in range(MOST_CONNECTIONS + 2)]
    now = float(MOST_CONNECTIONS + 2)
    assert overdue([(name, now) for name, _ in crowd[2:]], now) == []
    assert overdue([*((name, now) for name, _ in crowd[2:]), ("0", now - 2), ("1", now - 1)], now) == ["0", "1"]
