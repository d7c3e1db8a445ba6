"""What hosts say in their reports of the calls that they saw, each believed in what its own services call or are called."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from meshagent.cli.rules import moment
from meshagent.model.observed import Observed
from meshagent.policy.suggest import gathered
from meshagent.state.records import ReportRecord


def observed(reports: Iterable[ReportRecord], since: datetime | None = None, service: str = "") -> tuple[Observed, ...]:
    """The calls of the mesh, of all hosts together. `since`: those last seen then or later; `service`: by it or of it.

    What is seen at both ends is told by both: the caller's host counts pairs, the other one's tells of requests.
    """
    found = (each for report in reports for each in _of(report))
    wanted = (each for each in found if not service or service in each.key[:2])
    return tuple(each for each in gathered(wanted) if since is None or each.last >= since)


def evidence(seen: Observed) -> dict[str, Any]:
    """How often, when last and where such a call was seen, as plain data."""
    return {"calls": seen.calls, "last": moment(seen.last), "hosts": list(seen.hosts)}


def _of(report: ReportRecord) -> Iterator[Observed]:
    own = {*report.services, *report.gateways}
    for row in report.observed:
        if row.source in own or (row.method and row.destination in own):
            yield Observed(row.key, row.calls, row.last, (report.host,))
