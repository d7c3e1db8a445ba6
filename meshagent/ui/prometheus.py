"""Live numbers from a Prometheus that scrapes the agents' metrics pages, where one is named."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any

from meshagent.model.edges import OTHER
from meshagent.ui.live import Numbers
from meshagent.ui.topology import Pair

Data = dict[str, Any]
Results = Mapping[str, Sequence[Mapping[str, Any]]]  # of a query of Prometheus, by what it asks for
_SECONDS = 5.0
_RANGE = "2m"  # four times the usual pause between two scrapes, as rate() wants it
_WHOLE = 'route="",subset=""'
_BY = "sum by (side, source, destination"
QUERIES = {
    "rps": f"{_BY}) (rate(meshagent_requests_total{{{_WHOLE}}}[{_RANGE}]))",
    "errors": f'{_BY}) (rate(meshagent_requests_total{{{_WHOLE},response=~"5xx|failed"}}[{_RANGE}]))',
    "active": f"{_BY}) (meshagent_requests_active{{{_WHOLE}}})",
    "connections_per_s": f"{_BY}) (rate(meshagent_connections_total{{{_WHOLE}}}[{_RANGE}]))",
    **{
        f"p{share}_ms": f"1000 * histogram_quantile(0.{share}, "
        f"{_BY}, le) (rate(meshagent_request_duration_seconds_bucket{{{_WHOLE}}}[{_RANGE}])))"
        for share in (50, 99)
    },
}


class Prometheus:
    """Asks the server at `url` (http://host:9090, with a path where it has one)."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    async def numbers(self) -> Numbers:
        """What it knows of the last two minutes; a server that does not answer is among the missing."""
        from aiohttp import ClientError, ClientSession, ClientTimeout

        try:
            async with ClientSession(timeout=ClientTimeout(total=_SECONDS)) as http:

                async def ask(query: str) -> list[Data]:
                    async with http.post(f"{self._url}/api/v1/query", data={"query": query}) as answer:
                        return _result(await answer.json(content_type=None))

                found = await asyncio.gather(*(ask(query) for query in QUERIES.values()))
        except (ClientError, TimeoutError, OSError, ValueError) as error:
            return Numbers({}, (), {"Prometheus": f"it does not answer: {str(error) or type(error).__name__}"})
        return Numbers(pairs_of(dict(zip(QUERIES, found, strict=True))), ("Prometheus",), {})


def pairs_of(results: Results) -> dict[Pair, Data]:
    """The numbers by pair. Of a call that both sides tell, the caller's word goes. Raises ValueError, KeyError."""
    rows: dict[tuple[Pair, str], Data] = {}
    for name, result in results.items():
        for each in result:
            labels, value = each["metric"], float(each["value"][1])
            pair = labels.get("source", ""), labels.get("destination", "")
            rows.setdefault((pair, labels.get("side", "")), {})[name] = None if math.isnan(value) else value
    callers = {pair for pair, side in rows if side == "outbound"}
    return {
        pair: _row(row)
        for (pair, side), row in rows.items()
        if pair[0] != OTHER and (side == "outbound" or pair not in callers)
    }


def _row(found: Data) -> Data:
    rps, errors = found.get("rps") or 0.0, found.get("errors") or 0.0
    return {
        "rps": rps,
        "error_ratio": errors / rps if rps else 0.0,
        "p50_ms": found.get("p50_ms"),
        "p99_ms": found.get("p99_ms"),
        "active": found.get("active") or 0,
        "connections_per_s": found.get("connections_per_s") or 0.0,
    }


def _result(answer: Any) -> list[Data]:
    """Raises ValueError for an answer that is none of Prometheus'."""
    match answer:
        case {"status": "success", "data": {"resultType": "vector", "result": list(found)}}:
            return found
        case {"error": str(why)}:
            raise ValueError(why)
    raise ValueError("what answers there is no Prometheus")
