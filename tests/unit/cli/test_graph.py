"""The calls of a mesh as text, DOT and SVG."""

from __future__ import annotations

import re
from itertools import combinations
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshagent.cli.drawing.graph import Graph, Node, graph, words
from meshagent.cli.drawing.layout import columns, opened
from meshagent.cli.drawing.svg import as_svg, placed
from meshagent.cli.drawing.text import as_dot, as_text, quoted
from meshagent.cli.graph import used
from meshagent.model.edges import Edge, EdgeRate

SVG = "{http://www.w3.org/2000/svg}"
# A statement of the DOT language as it is written here (https://graphviz.org/doc/info/lang.html).
STRING = r'"(?:[^"\\]|\\.)*"'
ID = rf"(?:[A-Za-z_]+|{STRING})"
VALUE = rf"(?:{ID}|[0-9]+)"
STATEMENT = re.compile(rf"(?:{ID}(?: -> {ID})?(?: \[{ID}={VALUE}(?:, {ID}={VALUE})*\])?|{ID}={VALUE});", re.DOTALL)


def edge(source="web", destination="api", **more):
    base = {
        "protocol": "http",
        "route": "",
        "subset": "",
        "rps": 0.0,
        "error_ratio": 0.0,
        "p50_ms": None,
        "p99_ms": None,
        "active": 0,
        "connections_per_s": 0.0,
        "bytes_per_s": 0.0,
    }
    return EdgeRate(source, destination, **(base | more))


def drawn(*pairs, **instances):
    names = sorted({name for pair in pairs for name in pair} | instances.keys())
    return Graph(
        tuple(Node(name, "service", *instances.get(name, (0, 0))) for name in names),
        tuple(edge(*pair) for pair in sorted(pairs)),
    )


def test_text_tells_services_with_what_they_call_in_eighty_columns():
    busy = edge(rps=12.34, error_ratio=0.02, p50_ms=2.0, p99_ms=31.4)
    bytes_ = edge("web", "ledger", protocol="tcp", connections_per_s=0.5, bytes_per_s=2048)
    idle = edge("batch", "a-service-with-a-name-of-some-length-that-nobody-calls-now", rps=1.0, error_ratio=1.0)
    nodes = (Node("api", "service", 3, 2), Node("batch"), Node(idle.destination), Node("ledger", "service", 1, 0))
    text = as_text(Graph((*nodes, Node("web", "service", 1, 1)), (busy, bytes_, idle)))
    assert text.split("\n") == [
        "api  3 instances, 2 passing  degraded",
        "batch",
        f"  -> {idle.destination}",
        "       1.0/s, 100.0 % errors",
        idle.destination,
        "ledger  1 instance, 0 passing  failing",
        "web  1 instance",
        "  -> api     12.3/s, 2.0 % errors, p99 31 ms",
        "  -> ledger  0.50 conn/s, 2.0 kB/s",
    ]
    assert max(map(len, text.split("\n"))) <= 80


@pytest.mark.parametrize(
    ("rate", "told"),
    [
        (edge(), "idle"),
        (edge(rps=250.4, p99_ms=4.26), "250/s, p99 4.3 ms"),
        (edge(rps=0.25), "0.25/s"),
        (edge(active=2), "0.0/s"),
        (edge(protocol="tcp", connections_per_s=2.0, error_ratio=0.0004), "2.0 conn/s, 0 B/s, < 0.1 % failed"),
        (edge(protocol="", bytes_per_s=3_400_000.0), "0.0 conn/s, 3.4 MB/s"),
    ],
)
def test_an_edge_is_told_in_a_few_words(rate, told):
    assert words(rate) == told


def test_only_calls_that_were_made_are_shown_unless_all_are_asked_for():
    rates = (edge(rps=1.0), edge("web", "unused"), edge("web", "api", route="search", rps=0.5))
    found = graph(rates, frozenset({("web", "api")}), {"api": (2, 2)})
    assert [(each.source, each.destination, each.rps) for each in found.edges] == [("web", "api", 1.0)]
    assert [node.name for node in found.nodes] == ["api", "web"]
    assert found.data()["nodes"][0] == {
        "name": "api",
        "kind": "service",
        "instances": 2,
        "passing": 2,
        "health": "passing",
    }
    assert len(graph(rates, frozenset(), {}, every=True).edges) == 2


def test_of_one_service_what_is_around_it_is_shown():
    rates = (edge("web", "api"), edge("api", "db"), edge("web", "db"))
    pairs = frozenset((each.source, each.destination) for each in rates)
    found = graph(rates, pairs, {"unrelated": (1, 1)}, service="api")
    assert [node.name for node in found.nodes] == ["api", "db", "web"] and len(found.edges) == 2


def test_what_was_led_on_by_a_route_is_an_edge_of_its_own():
    led = edge("web", "api", route="via shop", rps=2.0)
    assert graph((led,), frozenset({("web", "api")}), {}).edges == (led,)


def test_a_pair_counts_as_used_when_anything_was_counted():
    nothing = Edge("outbound", "web", "api", requests={"2xx": 0})
    answered = Edge("outbound", "web", "shop", requests={"2xx": 1})
    strangers = Edge("inbound", "other", "shop", requests={"4xx": 1})
    assert used([nothing, answered, strangers]) == {("web", "shop")}


NAMES = st.text(min_size=1, max_size=12)


@given(st.lists(st.tuples(NAMES, NAMES), max_size=8))
@settings(max_examples=150, deadline=None)
def test_any_name_is_one_string_of_dot(pairs):
    found = drawn(*pairs)
    lines = as_dot(found)
    assert lines.startswith("digraph mesh {\n") and lines.endswith("\n}")
    body, at = lines.removeprefix("digraph mesh {\n").removesuffix("}"), 0
    while rest := body[at:].lstrip():
        at = len(body) - len(rest)
        statement = STATEMENT.match(body, at)
        assert statement, rest
        at = statement.end()
    assert body.count(" -> ") >= len(found.edges)


@given(st.lists(st.tuples(st.sampled_from("abcdefg"), st.sampled_from("abcdefg")), max_size=20))
@settings(max_examples=200, deadline=None)
def test_callers_stand_before_whom_they_call_unless_they_are_in_a_circle(pairs):
    names = sorted({name for pair in pairs for name in pair})
    forward = opened(names, [pair for pair in pairs if pair[0] != pair[1]])
    placed_ = {name: index for index, column in enumerate(columns(names, pairs)) for name in column}
    assert sorted(placed_) == names
    assert all(placed_[source] < placed_[destination] for source, destination in forward)
    assert {frozenset(pair) for pair in forward} == {frozenset(pair) for pair in pairs if pair[0] != pair[1]}


def test_lines_cross_less_than_by_name():
    pairs = [("a", "z"), ("b", "y"), ("c", "x")]
    assert columns(["a", "b", "c", "x", "y", "z"], pairs) == [["a", "b", "c"], ["z", "y", "x"]]


def test_the_picture_is_well_formed_and_no_box_lies_on_another():
    circle = [("web", "api"), ("api", "db"), ("db", "web"), ("api", "api"), ("cron", "db"), ('<b>&"', "db")]
    found = drawn(*circle, api=(2, 1), lonely=(1, 0))
    picture = ET.fromstring(as_svg(found))
    texts = [each.text for each in picture.iter(f"{SVG}text")]
    assert {"web", "api", "db", "cron", "lonely", '<b>&"', "2 instances, 1 passing", "idle"} <= set(texts)
    assert len(list(picture.iter(f"{SVG}path"))) == len(circle) + 1
    width, height = float(picture.get("width")), float(picture.get("height"))
    boxes = placed(found)
    for (left, top, wide), (to, level, _) in combinations(boxes.values(), 2):
        assert to - left >= wide or left - to >= 1 or abs(top - level) > 44
    assert all(left + wide < width and top + 44 < height for left, top, wide in boxes.values())


def test_nothing_to_draw_is_an_empty_picture():
    assert ET.fromstring(as_svg(Graph((), ()))).get("role") == "img"
    assert as_text(Graph((), ())) == "" and as_dot(Graph((), ())).count("\n") == 4


def test_a_string_of_dot_keeps_quotes_backslashes_and_line_ends():
    assert quoted('a"b\\c\nd') == '"a\\"b\\\\c\\nd"'
