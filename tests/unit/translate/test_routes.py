"""The evaluator of routes and a walker over the generated configuration take the same way."""

from __future__ import annotations

from hypothesis import given, settings

from meshagent.policy.request import Malformed, judged_path
from meshagent.policy.routing import way_of
from meshagent.translate.routes import outbound_routes
from tests.unit.translate.route_table import MATCHES, REQUESTS, TABLE, outbound
from tests.unit.translate.routes_walker import route_of

OUTBOUND = outbound()
ROUTES = outbound_routes(OUTBOUND)


def both(request):
    """What the evaluator says and what the generated configuration does: the number of the rule, "" for none."""
    path = judged_path(request.path)
    if isinstance(path, Malformed):
        return "malformed", "malformed"
    way = way_of(OUTBOUND.ways, request)
    return str(way.index) if way else "", _answer(route_of(ROUTES, request, path))


def _answer(route):
    return next((each.header.value for each in route.response_headers_to_add if each.header.key == "x-rule"), "")


def test_they_agree_on_the_table_and_every_rule_that_this_caller_may_meet_is_met_by_something():
    answers = {request: both(request) for request in TABLE}
    assert {request: pair for request, pair in answers.items() if pair[0] != pair[1]} == {}
    met = {pair[0] for pair in answers.values()}
    barred = {
        str(n)
        for n, match in enumerate(MATCHES)
        if "nobody" in match.get("sources", ()) or match.get("regions") == ["us"]
    }
    assert met == {str(n) for n in range(len(MATCHES))} - barred | {""}


@given(REQUESTS)
@settings(max_examples=400)
def test_they_agree_on_any_request(request):
    said, generated = both(request)
    assert said == generated
