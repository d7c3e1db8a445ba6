"""The traffic of all hosts: who is asked, and what of the answers is believed."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from meshagent.api.fleet import edges_of_page, fleet_traffic
from meshagent.state.records import ReportRecord

PAGE = """\
# HELP meshagent_requests_total Requests.
# TYPE meshagent_requests_total counter
meshagent_requests_total{side="outbound",source="web",destination="api",route="",subset="",response="2xx"} 90.0
meshagent_requests_total{side="outbound",source="web",destination="api",route="",subset="",response="5xx"} 10.0
meshagent_requests_total{side="outbound",source="web",destination="api",route="",subset="",response="failed"} 2.0
meshagent_requests_total{side="outbound",source="other",destination="api",route="",subset="",response="2xx"} 1.0
# HELP meshagent_request_duration_seconds Time.
# TYPE meshagent_request_duration_seconds histogram
meshagent_request_duration_seconds_bucket{side="outbound",source="web",destination="api",route="",subset="",le="0.005"} 60.0
meshagent_request_duration_seconds_bucket{side="outbound",source="web",destination="api",route="",subset="",le="+Inf"} 100.0
# TYPE meshagent_bytes_total counter
meshagent_bytes_total{side="outbound",source="web",destination="api",route="",subset="",direction="sent"} 512.0
# TYPE meshagent_store_ok gauge
meshagent_store_ok 1.0
"""


def report(host, metrics="", services=("web",)):
    return ReportRecord(
        host=host,
        revision=1,
        services=list(services),
        agent_version="1",
        metrics=metrics,
        at=datetime(2026, 1, 1, tzinfo=UTC),
    )


@asynccontextmanager
async def page(text, status="200 OK"):
    """A page on a port; gives its address."""

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.0 {status}\r\n\r\n{text}".encode())
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


def test_a_page_gives_the_rows_that_the_agent_itself_would_give():
    found = next(each for each in edges_of_page(PAGE, "vm-2") if each.source == "web")
    assert found.requests == {"2xx": 90, "5xx": 10} and found.failed == 2 and found.bytes_sent == 512
    assert found.latency == ((5.0, 60.0), (float("inf"), 100.0)) and found.host == "vm-2"


async def test_hosts_are_believed_in_what_their_own_services_do():
    async with page(PAGE) as address:
        traffic = await fleet_traffic([report("vm-2", address)])
    assert traffic.hosts == ("vm-2",) and not traffic.missing
    assert [each.source for each in traffic.edges] == ["web"]


async def test_this_host_is_asked_through_its_agent_alone():
    own = {"edges": [{"side": "outbound", "source": "web", "destination": "api", "requests": {"2xx": 1}}]}
    traffic = await fleet_traffic([report("vm-1", "127.0.0.1:1")], "vm-1", own)
    assert traffic.hosts == ("vm-1",) and traffic.edges[0].requests == {"2xx": 1} and not traffic.missing


async def test_whose_numbers_cannot_be_had_is_told_with_the_reason():
    async with page("nothing", "404 Not Found") as wrong, page('meshagent_x{side="up"} 1\n') as strange:
        hosts = [report("vm-1"), report("vm-2", "127.0.0.1:1"), report("vm-3", wrong), report("vm-4", strange)]
        traffic = await fleet_traffic(hosts)
    assert not traffic.edges and list(traffic.missing) == ["vm-1", "vm-2", "vm-3", "vm-4"]
    assert "set `metrics`" in traffic.missing["vm-1"]
    assert traffic.missing["vm-2"].startswith("127.0.0.1:1: ")
    assert "404" in traffic.missing["vm-3"]
    assert "not a metrics page" in traffic.missing["vm-4"]


@pytest.mark.parametrize("address", ["nowhere", ":", "host:port", "[::1:9"])
async def test_an_address_that_is_none_is_told_too(address):
    traffic = await fleet_traffic([report("vm-1", address)])
    assert set(traffic.missing) == {"vm-1"}
