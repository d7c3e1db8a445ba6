"""The dashboards can be imported into Grafana, and ask for what there is. tests/system/test_metrics.py runs their queries."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
FILES = sorted((DOCS / "dashboards").glob("*.json"))
OF_EDGES = re.compile(r"meshagent_(?:requests|request_duration|connections|bytes)_?\w*\{([^}]*)\}")


def boards():
    return [(file, json.loads(file.read_text())) for file in FILES]


def queries(board):
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]


@pytest.mark.parametrize(("file", "board"), boards(), ids=lambda each: each.stem if isinstance(each, Path) else "")
def test_a_dashboard_asks_the_prometheus_that_is_chosen_and_lays_its_panels_side_by_side(file, board):
    assert next(each["name"] for each in board["templating"]["list"]) == "datasource"
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    taken = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken and max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
        sources = [panel.get("datasource"), *(target["datasource"] for target in panel.get("targets", ()))]
        assert panel["type"] == "row" or all(each["uid"] == "${datasource}" for each in sources)
        assert panel["type"] == "row" or panel["targets"]


def test_dashboards_have_names_of_their_own():
    told = [(board["uid"], board["title"]) for _, board in boards()]
    assert len(told) == 3 and len({uid for uid, _ in told}) == len({title for _, title in told}) == 3


@pytest.mark.parametrize(("file", "board"), boards(), ids=lambda each: each.stem if isinstance(each, Path) else "")
def test_a_query_asks_for_metrics_that_exist_and_counts_no_call_twice(file, board):
    known = set(re.findall(r"`(meshagent_\w+)`", (DOCS / "metrics.md").read_text()))
    for query in queries(board):
        named = {re.sub("_(bucket|count)$", "", name) for name in re.findall(r"meshagent_\w+", query)}
        assert named <= known, query
        for labels in OF_EDGES.findall(query):
            assert "side=" in labels or "sum by (side" in query, query
            assert ('route=""' in labels) != ('route!=""' in labels or 'subset!=""' in labels), query
