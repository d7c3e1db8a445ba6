"""What of a query a tap understands."""

from __future__ import annotations

import pytest

from meshagent.api.tap import asked
from meshagent.envoy.requests import Wanted
from meshagent.envoy.tap import Asked
from meshagent.errors import NotFound, UsageProblem

HERE = frozenset({"web", "api"})


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ({}, Asked(HERE)),
        ({"service": "web"}, Asked(frozenset({"web"}))),
        ({"method": "get", "path": "/v1/*"}, Asked(HERE, method="get", path="/v1/*")),
        (
            {"source": "web", "destination": "api", "side": "inbound", "status": "5xx", "reason": "timeout"},
            Asked(HERE, Wanted(source="web", destination="api", side="inbound", status="5xx", reason="timeout")),
        ),
        ({"failed": "1"}, Asked(HERE, Wanted(failed=True))),
        ({"failed": "0"}, Asked(HERE)),
    ],
)
def test_a_query_says_what_is_watched(query, wanted):
    assert asked(query, HERE) == wanted


def test_a_service_of_another_host_and_a_word_that_means_nothing_are_refused():
    with pytest.raises(NotFound, match="no proxy of db runs on this host"):
        asked({"service": "db"}, HERE)
    with pytest.raises(UsageProblem, match="a tap knows no header"):
        asked({"header": "cookie"}, HERE)
