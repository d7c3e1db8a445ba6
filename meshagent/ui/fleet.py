"""The hosts, and the certificates that they hold. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from meshagent.cli.rules import moment
from meshagent.cli.status import host_row
from meshagent.state.records import ReportRecord

Data = dict[str, Any]


def hosts(reports: Sequence[ReportRecord], revision: int, now: datetime) -> list[Data]:
    """A row for each host that reports."""
    return [_host(each, revision, now) for each in reports]


def certificates(reports: Sequence[ReportRecord], authorities: Mapping[str, list[Data]], now: datetime) -> Data:
    """The certificates of services by host, what ends first at the top; the roots, and who signs."""
    rows = [
        {
            "host": report.host,
            "service": service,
            "ends_at": moment(end),
            "seconds": round((end - now).total_seconds()),
            "root": report.roots.get(service, ""),
        }
        for report in reports
        for service, end in report.svids.items()
    ]
    trusted = [each | {"seconds": _left(each["ends_at"], now)} for each in authorities.get("roots", ())]
    signers = [each | {"seconds": _left(each["ends_at"], now)} for each in authorities.get("authorities", ())]
    rows.sort(key=lambda row: (row["seconds"], row["service"], row["host"]))
    return {"certificates": rows, "roots": trusted, "authorities": signers}


def _host(report: ReportRecord, revision: int, now: datetime) -> Data:
    return host_row(report, revision, now) | {
        "upstreams": report.upstreams,
        "gateways": report.gateways,
        "rejected": report.rejected,
        "bundle": report.bundle[:16],
        "age": round((now - report.at).total_seconds()),
    }


def _left(end: str, now: datetime) -> int | None:
    return round((datetime.fromisoformat(end) - now).total_seconds()) if end else None
