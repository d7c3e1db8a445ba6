"""Where rollouts stand, as data and as words."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from meshagent.cli.rules import moment
from meshagent.model.names import format_duration
from meshagent.model.rollout import Counts, Rollout, percent_of
from meshagent.policy.judging import judge
from meshagent.state.changes import Documents
from meshagent.state.progress import Told, serving_of, sums_of

Data = dict[str, Any]
_TITLES = {"rolled_back": "taken back", "done": "done", "running": "under way"}


def standing(rollout: Rollout, told: Told, now: datetime) -> Data:
    """One rollout: its share now, the step, what was counted in it, and what it waits for or why it ended."""
    progress = told.progress if told.progress and told.progress.run == rollout.run else None
    records = told.of(rollout.run, progress.turn if progress else 0)
    counts, serving = sums_of(records), serving_of(records)
    elapsed = max(now - progress.since, timedelta()) if progress else timedelta()
    verdict = judge(rollout, progress, counts, serving, elapsed)
    return {
        "service": rollout.name,
        "base": rollout.base,
        "to": rollout.to,
        "state": rollout.state,
        "phase": progress.phase if progress else "awaited",
        "over": rollout.decided or (progress is not None and progress.phase != "running"),
        "percent": percent_of(rollout, progress),
        "step": min(progress.step, len(rollout.steps) - 1) + 1 if progress else 0,
        "steps": list(rollout.steps),
        "every": format_duration(rollout.every),
        "since": moment(progress.since) if progress else None,
        "host": progress.host if progress else None,
        "last": progress.why if progress else "",
        "now": verdict.why,
        "measured": {subset: _counted(counts.get(subset, Counts())) for subset in (rollout.base, rollout.to)},
    }


def standings_of(documents: Documents, rolled: Mapping[str, Told], now: datetime) -> list[Data]:
    """Every rollout among the documents, by service."""
    rollouts = [stated.thing for _, stated in sorted(documents.items()) if isinstance(stated.thing, Rollout)]
    return [standing(each, rolled.get(each.name, Told()), now) for each in rollouts]


def phase_words(data: Data) -> str:
    """`under way`, `paused`, `taken back`, `done`, `aborted`, `promoted`."""
    if data["state"] != "running" and not (data["state"] == "paused" and data["over"]):
        return str(data["state"])
    return _TITLES.get(data["phase"], "awaited")


def line_of(data: Data) -> str:
    """One line for a person."""
    steps = f"step {data['step']} of {len(data['steps'])}, " if data["phase"] == "running" and not data["over"] else ""
    split = f"{100 - data['percent']} % to {data['base']}, {data['percent']} % to {data['to']}"
    return f"rollout {data['service']}: {phase_words(data)}, {steps}{split}: {data['now']}"


def measured_rows(data: Data) -> list[list[object]]:
    """A row for each subset."""
    rows: list[list[object]] = []
    for subset, found in data["measured"].items():
        errors = f"{found['error_rate']:.3g} %" if found["error_rate"] is not None else ""
        p99 = f"{found['p99_ms']:.4g} ms" if found["p99_ms"] is not None else ""
        rows.append([subset, found["requests"], found["failed"], errors, p99])
    return rows


def next_of(data: Data) -> str:
    """The command that ends one which is over, so that it stays so without it; empty where there is none to give."""
    if not data["over"]:
        return ""
    verb = "promote" if data["percent"] else "abort"
    return f"meshagent rollout {verb} {data['service']} --keep"


def _counted(counts: Counts) -> Data:
    rate = 100 * counts.failed / counts.requests if counts.requests else None
    return {
        "requests": counts.requests,
        "failed": counts.failed,
        "error_rate": round(rate, 4) if rate is not None else None,
        "p99_ms": round(p99, 3) if (p99 := counts.quantile(0.99)) is not None else None,
    }
