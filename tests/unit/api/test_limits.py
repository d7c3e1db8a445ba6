"""What is left of limits towards upstreams, from Envoy's counts."""

from __future__ import annotations

import pytest

from meshagent.api.limits import limit_rows
from meshagent.model.traffic import ConnectionPool, Traffic
from meshagent.model.view import Endpoint, Outbound, ProxyView

POOL = Traffic(connection_pool=ConnectionPool(max_requests=10, max_connections=5))
CLUSTER = "cluster.out/web/payments"


def view(*outbounds):
    return ProxyView("vm-1", "10.0.0.1", "mesh.internal", (), outbounds)


def payments(**more):
    return Outbound("web", "payments", "http", (), local_port=9001, **{"traffic": POOL, **more})


def test_only_limits_that_a_service_asks_for_have_rows():
    rows = limit_rows(view(payments(), payments(traffic=Traffic())), {})
    assert [(row["limit"], row["allowed"], row["left"], row["near"], row["reached"]) for row in rows] == [
        ("max_connections", 5, 5, False, 0),
        ("max_requests", 10, 10, False, 0),
    ]


@pytest.mark.parametrize(("left", "near"), [(2, False), (1, True), (0, True)])
def test_less_than_a_fifth_is_near(left, near):
    stats = {f"{CLUSTER}.circuit_breakers.default.remaining_rq": left, f"{CLUSTER}.upstream_rq_pending_overflow": 3}
    (row,) = (row for row in limit_rows(view(payments()), stats) if row["limit"] == "max_requests")
    assert (row["left"], row["near"], row["reached"]) == (left, near, 3)


def test_an_older_envoy_counts_both_limits_of_requests_as_one():
    newer = {f"{CLUSTER}.upstream_rq_pending_overflow": 1, f"{CLUSTER}.upstream_rq_active_overflow": 4}
    assert [row["reached"] for row in limit_rows(view(payments()), newer)] == [0, 4]


def test_instances_in_plain_text_and_what_routes_lead_to_are_looked_at_too():
    beyond = Outbound("web", "ledger", "tcp", (), local_address="", traffic=POOL)
    plain = payments(plain_endpoints=(Endpoint("10.0.0.2", 80),), beyond=(beyond,))
    stats = {
        "cluster.plain/web/payments.circuit_breakers.default.remaining_cx": 0,
        "cluster.plain/web/payments.upstream_cx_overflow": 2,
        "cluster.out/web/ledger.circuit_breakers.default.remaining_cx": 4,
    }
    found = {(row["upstream"], row["limit"]): (row["left"], row["reached"]) for row in limit_rows(view(plain), stats)}
    assert found["payments", "max_connections"] == (0, 2)
    assert found["ledger", "max_connections"] == (4, 0)
