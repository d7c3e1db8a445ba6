"""Cases through Envoy: what is marked, who runs, what an answer shows, and what counts as seen. No Envoy is needed here."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest
import yaml

from meshagent.cli.cases import Case, Cases
from meshagent.cli.live import asking
from meshagent.cli.live.asking import NOTHING, Answer, can_be_sent, sent
from meshagent.cli.live.holding import Expected, Seen, misses, of_case, untold
from meshagent.cli.live.marks import marked, place_of
from meshagent.cli.live.parts import parts_of
from meshagent.cli.live.sightings import Scene, Sighting, of_answer, of_line
from meshagent.model.intention import Intention
from meshagent.model.mesh import Mesh
from meshagent.model.route import Route
from meshagent.model.service import Service
from meshagent.model.world import Stated, World
from meshagent.policy.request import Request

ROUTE = Route.model_validate(
    yaml.safe_load("""
name: payments
rules:
- {name: split, match: {path_prefix: /pay}, to: [{subset: v1, weight: 3}, {subset: v2}, {service: ledger}]}
- {match: {path_prefix: /gone}, respond: {status: 410}}
- {match: {path_prefix: /broken}, fault: {abort: {status: 503}}, headers: {response: {set: {x-own: "1"}}}}
""")
)
SCENE = Scene("payments", ROUTE, {"payments/a": ("v1",), "payments/b": ("v2", "blue"), "ledger/a": ()})
V1, V2 = ("payments", "v1"), ("payments", "v2")
PLAIN = Request()


def case(text, **more):
    return Case.model_validate({"from": "web", "to": "payments"} | yaml.safe_load(f"{{{text}}}") | more)


def shown(status=200, rule=None, place=None, app=None, body=b"", request=PLAIN, **headers):
    told = {"x-case-rule": rule, "x-case-place": place, "x-case-app": app}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return of_answer(Answer(status, named | {k: v for k, v in told.items() if v is not None}, body), request, SCENE)


def test_marks_name_each_rule_and_target_and_are_all_that_is_changed():
    route = marked(Stated(ROUTE)).thing
    assert [rule.headers.response.set["x-case-rule"] for rule in route.rules] == ["0", "1", "2"]
    places = [target.headers.response.set["x-case-place"] for target in route.rules[0].to]
    assert list(map(place_of, places)) == [V1, V2, ("ledger", None)]
    left = route.model_dump_json()
    for number in "012":
        left = left.replace(f'"x-case-rule":"{number}"', "")
    for place in places:
        left = left.replace(f'"x-case-place":"{place}"', "")
    assert left.replace('"x-own":"1",', '"x-own":"1"') == ROUTE.model_dump_json()
    Route.model_validate(route.model_dump())  # it is a route that may be applied
    intention = Stated(Intention.model_validate({"name": "payments", "sources": [{"name": "web", "action": "allow"}]}))
    assert marked(intention) is intention


def test_all_services_run_and_callers_that_are_not_among_them_are_never_in_service():
    cases = Cases.model_validate(
        yaml.safe_load("""
services:
- {name: web, protocol: http, region: eu}
- name: payments
  protocol: http
  instances: [{meta: {version: v1}}, {health: failing}, {health: draining}]
cases:
- {from: web, to: payments, expect: allowed}
- {from: web, to: ledger, expect: allowed}
- {from: web, to: payments, region: us, expect: allowed}
- {from: batch, to: payments, expect: denied}
""")
    )
    ledger = Stated(Service(name="ledger", protocol="tcp"))
    parts = parts_of(cases, World(1, Mesh(), {}, {"ledger": ledger}, {}))
    assert [(each.name, each.place, each.protocol, each.passing, each.calls) for each in parts] == [
        ("web/web-0", ("eu", ""), "http", True, ("payments", "ledger")),
        ("payments/payments-0", ("", ""), "http", True, ()),
        ("payments/payments-1", ("", ""), "http", False, ()),
        ("ledger/ledger-0", ("", ""), "tcp", True, ()),
        ("web/web-1", ("us", ""), "http", False, ("payments",)),
        ("batch/batch-0", ("", ""), "http", False, ("payments",)),
    ]
    assert parts[1].meta == {"version": "v1"}


def test_a_request_is_sent_as_it_is_written():
    request = Request("POST", "/a/../b?c=d", (("x-a", "1"), ("x-a", "2")))
    assert sent(request, "payments") == b"POST /a/../b?c=d HTTP/1.1\r\nhost: payments\r\nx-a: 1\r\nx-a: 2\r\n\r\n"
    assert sent(replace(request, headers=(("host", "b"),)), "payments").endswith(b"HTTP/1.1\r\nhost: b\r\n\r\n")
    assert can_be_sent(request) and not can_be_sent(Request("GET", "/a b")) and not can_be_sent(Request("GET", "/a\n"))


@pytest.mark.parametrize(
    ("text", "bodiless", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nX-Case-App: a\r\ncontent-length: 2\r\n\r\nhi", False, b"hi"),
        (b"HTTP/1.1 200 OK\r\nx-case-app: a\r\ncontent-length: 2\r\n\r\n", True, b""),
        (b"HTTP/1.1 200 OK\r\nx-case-app: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", False, b"hi"),
    ],
)
async def test_an_answer_is_read_to_its_end(text, bodiless, body):
    reader = asyncio.StreamReader()
    reader.feed_data(text)
    found = await asking._read(reader, bodiless=bodiless)
    assert (found.status, found.headers["x-case-app"], found.body) == (200, "a", body)
    assert not reader._buffer


def test_what_an_answer_shows():
    assert shown(rule="0", place="payments/v1", app="payments/a") == Sighting("allowed", 200, 0, frozenset({V1}))
    assert shown(app="payments/a") == Sighting("allowed", 200, None, frozenset({("payments", None)}))
    assert shown(403, "0", "payments/v2", x_mesh_refused="intention") == Sighting("denied", 403, 0, frozenset({V2}))
    assert shown(410, "1") == Sighting("answered", 410, 1)
    assert shown(429, "0", "payments/v2", x_mesh_refused="rate-limit").end == "limited"
    assert shown(503, "2", x_mesh_refused="fault") == Sighting("broken", 503, 2, frozenset({("payments", None)}))
    assert shown(200, "2", grpc_status="14", x_mesh_refused="fault").end == "broken"
    assert shown(503, "0", "payments/v2", x_mesh_refused="crowded").end == "limited"
    assert shown(503, "0", "payments/v2", x_mesh_refused="no-endpoints") == Sighting(
        "unreached", 503, 0, frozenset({V2})
    )
    assert shown(400) == Sighting("denied", 400)


def test_a_status_alone_denies_nothing():
    assert shown(403, "0", "payments/v1").end == "unreached"
    assert shown(503, x_mesh_refused="broken") == Sighting("unreached", 503)
    underscore = Request("GET", "/", (("x_a", "1"),))
    assert shown(503, "0", "payments/v1", x_mesh_refused="broken", request=underscore).end == "denied"
    assert of_answer(NOTHING, Request(), SCENE) == Sighting("unreached")


def test_an_app_that_is_not_of_the_marked_target_counts_as_itself():
    assert shown(rule="0", place="payments/v1", app="payments/b").places == {("payments/b", None)}
    assert shown(rule="0", place="ledger", app="payments/b").places == {("payments", None)}


def test_what_a_connection_shows():
    both = {V1, V2, ("payments", "blue")}
    assert of_line("payments/a", arrived=True, scene=SCENE, candidates=both).places == {V1}
    assert of_line("payments/b", arrived=True, scene=SCENE, candidates=both).places == {V2, ("payments", "blue")}
    assert of_line("ledger/a", arrived=True, scene=SCENE, candidates=both).places == {("ledger", None)}
    assert of_line("", arrived=True, scene=SCENE, candidates=both).end == "denied"
    assert of_line("", arrived=False, scene=SCENE, candidates=both).end == "unreached"


def of(*sightings, marked=True):
    return Seen(tuple(sightings), ROUTE, marked)


def fields(expected, seen, shares=None):
    return [miss.field for miss in misses(expected, seen, shares or {})]


TO_V1 = Sighting("allowed", 200, 0, frozenset({V1}))
TO_V2 = Sighting("allowed", 200, 0, frozenset({V2}))
DENIED = Sighting("denied", 403, None, frozenset({("payments", None)}))
GONE = Sighting("answered", 410, 1)


def test_what_holds_and_what_does_not():
    allowed = of_case(case("expect: allowed, route: split, goes_to: [{subset: v1}]"))
    assert fields(allowed, of(TO_V1)) == []
    assert fields(allowed, of(DENIED)) == ["expect", "route", "goes_to"]
    assert fields(allowed, of(TO_V1, TO_V2)) == ["goes_to"]
    assert fields(of_case(case("expect: denied, route: none")), of(DENIED)) == []
    assert fields(of_case(case("expect: denied, route: 0")), of(TO_V1)) == ["expect"]
    assert fields(of_case(case("expect: allowed")), of(TO_V1, DENIED)) == ["expect"]
    assert fields(of_case(case("respond: 410")), of(GONE)) == []
    assert fields(of_case(case("respond: 404")), of(GONE)) == ["respond"]
    assert fields(of_case(case("respond: 410")), of(TO_V1)) == ["respond"]
    assert fields(of_case(case("redirect: 302")), of(Sighting("unreached", 503))) == ["redirect"]


def test_what_is_not_told_is_neither_held_nor_missed():
    asked = of_case(case("expect: allowed, route: split, goes_to: [{subset: v1}]"))
    limited = of(Sighting("limited", 429, 0, frozenset({V1})))
    assert untold(asked, limited) == ("expect", "goes_to") and fields(asked, limited) == []
    tcp = of(Sighting("allowed", places=frozenset({V1})), marked=False)
    assert untold(asked, tcp) == ("route",) and fields(asked, tcp) == []
    twice = of(Sighting("allowed", places=frozenset({V1, V2})), marked=False)
    assert untold(asked, twice) == ("goes_to", "route")
    assert untold(asked, of()) == ("expect", "goes_to", "route")
    assert untold(asked, of(TO_V1)) == ()


@pytest.mark.parametrize(
    ("share", "count", "holds"), [(5, 400, True), (5, 20, True), (50, 400, False), (0.5, 4000, False)]
)
def test_shares_are_judged_by_what_so_many_calls_can_tell(share, count, holds):
    expected = Expected(places={V1: 95.0, V2: 5.0})
    chance = random.Random(7)
    calls = [TO_V2 if chance.random() * 100 < share else TO_V1 for _ in range(count)]
    assert (fields(expected, of(*calls)) == []) is holds


def test_a_place_that_must_have_been_met_is_missed_and_one_that_need_not_is_not():
    either = Expected(places={V1: None, V2: None})
    assert fields(either, of(*[TO_V1] * 400), {V1: 95.0, V2: 5.0}) == ["goes_to"]
    assert fields(either, of(*[TO_V1] * 12), {V1: 95.0, V2: 5.0}) == []
    assert fields(either, of(*[TO_V1] * 12), {V1: 50.0, V2: 50.0}) == []
    assert fields(either, of(*[TO_V1] * 24), {V1: 50.0, V2: 50.0}) == ["goes_to"]
    assert fields(Expected(places={V1: 100.0, V2: 0.0}), of(*[TO_V1] * 12)) == []


def test_where_a_called_instance_stands_is_asked_of_the_instance_that_answered():
    scene = replace(SCENE, zones={"payments/a": "eu-1a", "payments/b": "eu-1b"})
    headers = {"x-case-rule": "0", "x-case-place": "payments/v1", "x-case-app": "payments/a"}
    near = of_answer(Answer(200, headers), Request(), scene)
    assert near.zone == "eu-1a"
    assert of_line("payments/b", arrived=True, scene=scene, candidates={V2}).zone == "eu-1b"
    asked = of_case(case("goes_to: [{subset: v1, zone: eu-1a, percent: 100}]"))
    assert fields(asked, of(near)) == []
    (miss,) = misses(asked, of(replace(near, zone="us-1a")), {})
    assert (miss.expected, miss.came) == ("payments v1 100 % in eu-1a", "payments v1 100 % in us-1a of 1")
