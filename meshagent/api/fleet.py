"""The traffic of the whole mesh: this host's numbers from its agent, those of others from their metrics pages.

A host's report in the store says where its page is. What a page tells of other hosts' services is not taken: each host is
believed in what its own Envoy has counted, and in nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from meshagent.model.edges import Edge, edge_of
from meshagent.state.records import ReportRecord

_SECONDS = 3.0  # for one page
_PAGE_BYTES = 16 << 20
_AT_ONCE = 16
_UNTOLD = "its report names no metrics page that others reach: set `metrics` in its agent.yaml"

Labels = tuple[str, str, str, str, str]  # side, source, destination, route, subset


@dataclass(frozen=True, slots=True)
class FleetTraffic:
    """What the Envoys of `hosts` have counted. `missing`: whose numbers could not be had, and why.

    `at` is when, in seconds of the event loop's clock: for `model.edges.rates` between two of these.
    """

    edges: tuple[Edge, ...]
    hosts: tuple[str, ...]
    missing: Mapping[str, str] = field(default_factory=dict)
    at: float = 0.0


async def fleet_traffic(
    reports: Iterable[ReportRecord], here: str = "", own: Mapping[str, Any] | None = None
) -> FleetTraffic:
    """Read every host once, at most 3 s each. `own`: what the agent of this host, `here`, answers to GET /v1/traffic.

    Raises nothing for a host that cannot be read: it is among the missing.
    """
    gate = asyncio.Semaphore(_AT_ONCE)
    others = [report for report in reports if own is None or report.host != here]
    answers = await asyncio.gather(*(_page(report, gate) for report in others))
    found = {report.host: each for report, each in zip(others, answers, strict=True)}
    edges = [edge_of(row, here) for row in own["edges"]] if own is not None else []
    edges += [edge for each in found.values() if not isinstance(each, str) for edge in each]
    hosts = [host for host, each in found.items() if not isinstance(each, str)] + ([here] if own is not None else [])
    missing = {host: each for host, each in found.items() if isinstance(each, str)}
    return FleetTraffic(tuple(edges), tuple(sorted(hosts)), missing, asyncio.get_running_loop().time())


def edges_of_page(text: str, host: str) -> tuple[Edge, ...]:
    """The edges that a metrics page tells of. Raises ValueError and KeyError for a page that cannot be read."""
    from prometheus_client.parser import text_string_to_metric_families

    rows: defaultdict[Labels, dict[str, Any]] = defaultdict(lambda: {"requests": {}, "latency_ms": []})
    for family in text_string_to_metric_families(text):
        if not family.name.startswith("meshagent_"):
            continue
        for sample in family.samples:
            if "side" in sample.labels:
                _take(rows[_labels(sample.labels)], sample.name, sample.labels, sample.value)
    return tuple(edge_of(_named(labels) | row, host) for labels, row in rows.items())


def _take(row: dict[str, Any], name: str, labels: Mapping[str, str], value: float) -> None:
    """Put one sample where GET /v1/traffic has it."""
    match name:
        case "meshagent_requests_total" if labels["response"] == "failed":
            row["failed"] = value
        case "meshagent_requests_total":
            row["requests"][labels["response"]] = value
        case "meshagent_request_duration_seconds_bucket":
            row["latency_ms"].append((round(float(labels["le"]) * 1000, 6), value))
        case "meshagent_connections_total":
            row["connections"] = value
        case "meshagent_bytes_total":
            row[f"bytes_{labels['direction']}"] = value
        case "meshagent_requests_active":
            row["active"] = value


def _labels(labels: Mapping[str, str]) -> Labels:
    side, source, destination = labels["side"], labels["source"], labels["destination"]
    return side, source, destination, labels.get("route", ""), labels.get("subset", "")


def _named(labels: Labels) -> dict[str, Any]:
    return dict(zip(("side", "source", "destination", "route", "subset"), labels, strict=True))


async def _page(report: ReportRecord, gate: asyncio.Semaphore) -> tuple[Edge, ...] | str:
    """What one host has counted of its own services; or why that cannot be had."""
    host, _, port = report.metrics.rpartition(":")
    if not host:
        return _UNTOLD
    try:
        async with gate, asyncio.timeout(_SECONDS):
            edges = edges_of_page(await _fetch(host.strip("[]"), int(port), report.metrics), report.host)
    except TimeoutError:
        return f"{report.metrics} does not answer within {_SECONDS:g} s"
    except OSError as error:
        return f"{report.metrics}: {error.strerror or error}"
    except (ValueError, KeyError, TypeError) as error:
        return f"{report.metrics} is not a metrics page of meshagent: {error}"
    own = {*report.services, *report.gateways}
    return tuple(edge for edge in edges if (edge.source if edge.side == "outbound" else edge.destination) in own)


async def _fetch(host: str, port: int, authority: str) -> str:
    """The page as text. Raises OSError, and ValueError for an answer that is no page."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET /metrics HTTP/1.0\r\nHost: {authority}\r\n\r\n".encode())
        data = bytearray()
        while chunk := await reader.read(65536):
            data += chunk
            if len(data) > _PAGE_BYTES:
                raise ValueError(f"it is longer than {_PAGE_BYTES >> 20} MiB")
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    head, _, body = bytes(data).partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    if status != [b"200"]:
        raise ValueError(f"it answers {head[:40].decode('latin-1')!r}")
    return body.decode()
