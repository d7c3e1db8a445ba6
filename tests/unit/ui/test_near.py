"""What a host shows that may not read the mesh's store."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from meshagent.errors import AgentUnreachable, StoreDenied
from meshagent.ui.live import Numbers
from meshagent.ui.near import topology_here
from meshagent.ui.pages import Pages

ROWS = [
    {
        "name": "web",
        "protocol": "http",
        "health": "passing",
        "upstreams": [
            {"service": "payments", "protocol": "http", "endpoints": 3, "healthy": 2, "outside": []},
            {"service": "mail", "protocol": "tcp", "endpoints": 0, "healthy": 0, "outside": ["smtp.example.com"]},
        ],
    },
    {"name": "web", "protocol": "http", "health": "failing", "upstreams": []},
]


class Denied:
    """A store that refuses, and an agent that tells its services, or does not answer."""

    def __init__(self, *, agent: bool) -> None:
        self.agent = agent

    async def seen(self):
        raise StoreDenied("read config/: no right", next_step="give it")

    async def services_here(self):
        if not self.agent:
            raise AgentUnreachable("nobody")
        return ROWS


class Live:
    async def numbers(self):
        return Numbers({("web", "payments"): {"rps": 4.0}}, ("vm-1",))


def pages(*, agent: bool) -> Pages:
    return Pages(Denied(agent=agent), Live(), lambda: datetime.now(UTC))


def test_a_host_knows_its_services_what_they_call_and_how_well_that_is():
    data = topology_here(ROWS, {("batch", "web"): {"rps": 1.0}})
    nodes = {node["name"]: (node["kind"], node["health"]) for node in data["nodes"]}
    assert nodes == {
        "batch": ("unknown", "none"),
        "mail": ("external", "none"),
        "payments": ("service", "partly"),
        "web": ("service", "partly"),
    }
    assert [(edge["source"], edge["destination"]) for edge in data["edges"]] == [
        ("batch", "web"),
        ("web", "mail"),
        ("web", "payments"),
    ]
    assert {edge["reach"] for edge in data["edges"]} == {"unknown"}


async def test_where_the_store_refuses_the_topology_is_of_this_host_and_says_why():
    data = await pages(agent=True).topology({})
    assert data["why"] == "read config/: no right: give it"
    assert next(edge["live"] for edge in data["edges"] if edge["destination"] == "payments") == {"rps": 4.0}


async def test_where_nobody_tells_anything_it_is_the_stores_refusal_that_is_told():
    with pytest.raises(StoreDenied):
        await pages(agent=False).topology({})
