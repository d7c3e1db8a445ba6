"""Intentions, rules and verdicts as plain data with the documents' field names, and as words."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from meshagent.model.intention import Action, HeaderMatch, HttpMatch, IntentionSource, Permission
from meshagent.model.view import Guard, Rule
from meshagent.model.world import Origin, Stated
from meshagent.policy.explain import Verdict
from meshagent.policy.request import Request

Data = dict[str, Any]


def intention_row(destination: str, source: IntentionSource, stated: Stated[Any], now: datetime) -> Data:
    """One intention."""
    expires = source.expires_at
    return {
        "source": source.name,
        "destination": destination,
        "action": source.action,
        "permissions": [permission_data(each) for each in source.permissions],
        "expires_at": moment(expires),
        "expired": expires is not None and expires <= now,
        "reason": source.reason,
        "shadow": source.shadow,
        "origin": origin_data(stated.origin(source.part)),
    }


def rule_rows(guard: Guard, origin: Origin) -> list[Data]:
    """The rules of a destination in the order in which they are asked; the last one is the mesh's default.

    Behind them, those that are in shadow, each with the place at which it would be asked.
    """
    rows = _in_order(guard, origin)
    if guard.shadow is None:
        return rows
    asked = [{**row, "order": 0} for row in rows]
    would = _in_order(guard.shadow, origin)
    return [*rows, *({**row, "shadow": True} for row in would if {**row, "order": 0} not in asked)]


def _in_order(guard: Guard, origin: Origin) -> list[Data]:
    rows = [_rule_row(guard, rule) for rule in guard.rules]
    if not any(rule.source == "*" for rule in guard.rules):
        default = _row("*", guard.destination, "mesh/default_action", guard.default, (), "", origin)
        rows.append(default)
    return [{"order": order, **row} for order, row in enumerate(rows, 1)]


def verdict_data(
    source: str,
    destination: str,
    request: Request | None,
    verdict: Verdict,
    default: Origin,
    doubt: Verdict | None = None,
) -> Data:
    """The answer to one question. `default` is where the mesh's default action came from, `doubt` what shadow says."""
    rule = verdict.rule
    return {
        "source": source,
        "destination": destination,
        "request": {"method": request.method, "path": request.path, "headers": [list(each) for each in request.headers]}
        if request
        else None,
        "allowed": verdict.allowed,
        "outcome": verdict.outcome,
        "why": verdict.why,
        "rule": rule.id if rule else None,
        "permission": verdict.permission,
        "reason": rule.reason if rule else "",
        "origin": origin_data(rule.origin if rule else default),
        "shadow": _doubt(doubt, default) if doubt else None,
    }


def _doubt(doubt: Verdict, default: Origin) -> Data:
    rule = doubt.rule
    return {
        "outcome": doubt.outcome,
        "why": doubt.why,
        "rule": rule.id if rule else None,
        "permission": doubt.permission,
        "reason": rule.reason if rule else "",
        "origin": origin_data(rule.origin if rule else default),
    }


def verdict_words(data: Data, rule: Rule | None, default: Origin) -> str:
    """The same for a person."""
    request = data["request"]
    call = f"{data['source']} -> {data['destination']}" + (f" {request['method']} {request['path']}" if request else "")
    outcome = {"allow": "allowed", "deny": "denied", "depends": "depends on the request", "malformed": "refused"}
    lines = [f"{call}: {outcome[data['outcome']]}", f"  because  {data['why']}"]
    if data["permission"] is not None and rule is not None:
        lines[-1] += f" ({permission_words(rule.permissions[data['permission']])})"
    if data["reason"]:
        lines.append(f"  reason   {data['reason']}")
    lines.append(f"  from     {rule.origin if rule else default}")
    if doubt := data["shadow"]:
        would = "it would depend on the request" if doubt["outcome"] == "depends" else "it would be refused"
        lines.append(f"  shadow   {would}: {doubt['why']} ({origin_words(doubt['origin'])})")
    return "\n".join(lines)


def moment(at: datetime | None) -> str | None:
    """A time as documents and tables have it, in UTC."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if at else None


def origin_data(origin: Origin) -> Data:
    """An origin; what is not known is empty."""
    return {"file": origin.file, "line": origin.line, "who": origin.who, "at": moment(origin.at)}


def origin_words(data: Data) -> str:
    """An origin from `origin_data` in one piece."""
    at = datetime.fromisoformat(data["at"]) if data["at"] else None
    return str(Origin(data["file"], data["line"], data["who"], at))


def permission_data(permission: Permission) -> Data:
    """A permission as the document has it."""
    return permission.model_dump(mode="json", exclude_defaults=True)


def permission_words(permission: Permission) -> str:
    """`allow GET below /reports with x-team=fin`."""
    http = permission.http
    conditions = [*_methods(http), *_path(http)]
    headers = " and ".join(_header(each) for each in http.headers)
    return " ".join([permission.action, *conditions, *([f"with {headers}"] if headers else [])])


def action_words(action: Action | None, permissions: Iterable[Permission]) -> str:
    """What a source may do."""
    return action or "; ".join([*(permission_words(each) for each in permissions), "else deny"])


def row_action(row: Data) -> str:
    """As `action_words`, of a row, and whether it is in shadow."""
    words = action_words(row["action"], [Permission.model_validate(each) for each in row["permissions"]])
    return f"{words} (in shadow)" if row["shadow"] else words


def _methods(http: HttpMatch) -> list[str]:
    return [",".join(http.methods)] if http.methods else []


def _path(http: HttpMatch) -> list[str]:
    given = (("below", http.path_prefix), ("exactly", http.path_exact), ("matching", http.path_regex))
    words = [f"{word} {path}" for word, path in given if path is not None]
    return [*words, "in any case"] if http.ignore_case and words else words


def _header(header: HeaderMatch) -> str:
    given = ((f"{header.name}=", header.exact), (f"{header.name}=", header.prefix and f"{header.prefix}..."))
    more = ((f"{header.name}=", header.suffix and f"...{header.suffix}"),)
    words = next((f"{name}{value}" for name, value in (*given, *more) if value is not None), header.name)
    absent = header.invert != (header.present is False)
    return f"not {words}" if absent else words


def _rule_row(guard: Guard, rule: Rule) -> Data:
    return _row(rule.source, guard.destination, rule.id, rule.action, rule.permissions, rule.reason, rule.origin)


def _row(
    source: str,
    destination: str,
    rule: str,
    action: Action | None,
    permissions: tuple[Permission, ...],
    reason: str,
    origin: Origin,
) -> Data:
    return {
        "source": source,
        "destination": destination,
        "rule": rule,
        "action": action,
        "permissions": [permission_data(each) for each in permissions],
        "reason": reason,
        "shadow": False,
        "origin": origin_data(origin),
    }
