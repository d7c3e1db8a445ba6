"""`meshagent explain TICKET` and `explain --last`: what this host saw of one call, and by which line of which policy.

The access log says what happened, the store's history what the policy was at that moment, and the policy of now whether
it would happen again.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from meshagent.api.client import AgentClient
from meshagent.cli.applied import NO
from meshagent.cli.mesh import Seen, author, now_utc
from meshagent.cli.output import show, warn
from meshagent.cli.rules import Data, moment, origin_data, permission_words
from meshagent.cli.session import Session
from meshagent.errors import MeshError, NotFound
from meshagent.model.names import HTTP_PROTOCOLS
from meshagent.model.reasons import reason
from meshagent.model.world import Origin
from meshagent.policy.explain import Verdict, explain
from meshagent.policy.request import Request
from meshagent.policy.resolve import judged_protocol
from meshagent.state.histories import read_histories, undone
from meshagent.state.records import HistoryRecord

TICKET = re.compile(r"[0-9]{16,17}-[0-9]{1,10}")
_ROWS = (
    ("flags", "flag_words"),
    ("details", "details"),
    ("failure", "failure"),
    ("claimed", "claimed"),
    ("rule", "rule"),
    ("route", "route"),
    ("subset", "subset"),
    ("instance", "instance"),
    ("trace", "trace_id"),
    ("request", "request_id"),
)


@dataclass(frozen=True, slots=True)
class Judged:
    """An intention's refusal with the policy beside it: how it was judged then, and how the same call is judged now.

    `since`: the changes between the two, the newest first. `doubt`: why the two may not be all.
    """

    then: Verdict
    now: Verdict
    origin: Origin
    since: tuple[HistoryRecord, ...] = ()
    doubt: str = ""

    @property
    def code(self) -> str:
        """The finer code of the refusal."""
        if self.then.rule is None:
            return "no-intention"
        return "denied" if self.then.rule.action else "l7-rule"


async def explain_ticket(session: Session, ticket: str) -> int:
    """Tell what became of the call with this ticket. Exit code 5 where it would be refused again, else 0.

    Raises NotFound where this host did not log it, AgentUnreachable, StoreUnavailable.
    """
    found = await session.agent().requests(ticket=ticket)
    lines: list[Data] = found["requests"]
    if not lines:
        raise NotFound(
            f"this host's access log has no call with the ticket {ticket}",
            next_step="ask on the host that answered: of a refusal by an intention, one of the destination's",
        )
    own = next((line for line in lines if line["ticket"] == ticket), None)
    if own is None:
        warn(
            f"another host's proxy answered, and knows more: meshagent explain {ticket} on one of {_called(lines[0])}'s"
        )
    return await _tell(session, own or lines[0])


async def explain_last(session: Session, source: str, destination: str) -> int:
    """The same of the last call of the source to the destination that failed. Raises as `explain_ticket`."""
    line = await _last(session.agent(), source, destination)
    if line is None:
        raise NotFound(
            f"this host's access log has no call of {source} to {destination} that failed",
            next_step=f"a refusal is in the log of the destination's host; meshagent explain {source} {destination}",
        )
    return await _tell(session, line)


async def _last(agent: AgentClient, source: str, destination: str) -> Data | None:
    """The newest failure, as told by whose proxy answered it: that one knows most."""
    found = await agent.requests(source=source, destination=destination, failed="1", most="20")
    lines: list[Data] = found["requests"]
    newest = lines[0] if lines else None
    if newest and newest["far_ticket"]:
        return next((line for line in lines if line["ticket"] == newest["far_ticket"]), newest)
    return newest


async def _tell(session: Session, line: Data) -> int:
    judged = await _judge(session, line) if line["reason"] == "intention" and line["source"] else None
    code = judged.code if judged else line["reason"]
    steps = _steps(line, judged, code)
    data = {"seen": line, "code": code, "words": reason(code).words, "policy": _policy(judged), "next_steps": steps}
    show(data, session.form(), *_words(line, judged, code), *(f"  next     {step}" for step in steps))
    return NO if judged and not judged.now.allowed else 0


async def _judge(session: Session, line: Data) -> Judged | None:
    """How policy judged the call when it was made, and how it does now; None where the store cannot be asked."""
    try:
        async with session.mesh() as mesh:
            seen = await mesh.read()
            histories, _ = await read_histories(mesh.store, mesh.keys)
    except MeshError as error:
        warn(f"the policy cannot be looked at: {error}")
        return None
    return judge(seen, histories, line, now_utc())


def judge(seen: Seen, histories: Sequence[HistoryRecord], line: Data, now: datetime) -> Judged:
    """The verdicts on a logged call: by the policy at its time, as far as the history goes back, and by that of `now`."""
    at = datetime.fromisoformat(line["time"])
    since = tuple(each for each in reversed(histories) if each.at > at)
    then, doubt = seen, ""
    try:
        if since:
            then = _back(seen, histories, min(each.revision for each in since) - 1, at)
    except NotFound as error:
        doubt = f"what the policy was then is not known: {error}"
    verdict = _verdict(then, line, at)
    if verdict.allowed and not doubt:
        doubt = "by the policy of then it was allowed: the host had not applied it yet, or a header decided"
    default = seen.documents.get(("mesh", "mesh"))
    origin = verdict.rule.origin if verdict.rule else default.origin() if default else Origin()
    return Judged(verdict, _verdict(seen, line, now), origin, since, doubt)


def _back(seen: Seen, histories: Sequence[HistoryRecord], revision: int, at: datetime) -> Seen:
    """The policy as it was at a revision. Raises NotFound."""
    documents = dict(seen.documents)
    for name, stated in undone(seen.documents, histories, revision, seen.revision, author(at)).items():
        if stated is None:
            documents.pop(name, None)
        else:
            documents[name] = stated
    return replace(seen, revision=revision, documents=documents)


def _verdict(seen: Seen, line: Data, at: datetime) -> Verdict:
    destination = _called(line)
    http = line["method"] and judged_protocol(seen.world(), destination) in HTTP_PROTOCOLS
    request = Request(line["method"], line["path"]) if http else None
    return explain(seen.guard(destination, at), line["source"], request)


def _called(line: Data) -> str:
    return str(line["destination"])


def _words(line: Data, judged: Judged | None, code: str) -> list[str]:
    what = f" {line['method']} {line['path']}" if line["method"] else ""
    status = f" {line['status']}" if line["status"] else ""
    took = f", after {line['duration_ms']} ms" if line["duration_ms"] > 0 else ""
    said = {"inbound": "the destination's proxy", "gateway": "the gateway"}.get(line["side"], "the caller's own proxy")
    words = [
        f"{line['source'] or 'somebody'} -> {_called(line) or 'nobody'}{what}:{status} {code or 'answered'}",
        f"  when     {line['time']}{took}",
        f"  told by  {said} ({line['service']}), ticket {line['ticket']}",
    ]
    if code:
        words.append(f"  because  {judged.then.why if judged else reason(code).words}")
    if judged:
        words += _policy_words(judged)
    for title, name in _ROWS:
        value = ", ".join(line[name]) if isinstance(line[name], list) else line[name]
        words += [f"  {title:<8} {value}"] if value else []
    return [
        " ".join(each.splitlines()) for each in words
    ]  # what a stranger's certificate says makes no line of its own


def _policy_words(judged: Judged) -> list[str]:
    rule, number = judged.then.rule, judged.then.permission
    words = [f"  from     {judged.origin}"]
    if rule is not None and number is not None:
        words.append(f"  which    {permission_words(rule.permissions[number])}")
    if rule is not None and rule.reason:
        words.append(f"  reason   {rule.reason}")
    if judged.doubt:
        words.append(f"  doubt    {judged.doubt}")
    for each in judged.since[:3]:
        changed = ", ".join(f"{edit.kind}/{edit.name}" for edit in each.edits)
        words.append(f"  since    revision {each.revision} by {each.who} at {moment(each.at)}: {changed}")
    return [*words, f"  now      {'allowed' if judged.now.allowed else 'refused'}: {judged.now.why}"]


def _policy(judged: Judged | None) -> Data | None:
    if judged is None:
        return None
    rule = judged.then.rule
    return {
        "rule": rule.id if rule else None,
        "permission": judged.then.permission,
        "why": judged.then.why,
        "origin": origin_data(judged.origin),
        "doubt": judged.doubt,
        "changed_since": [each.revision for each in judged.since],
        "now": {"allowed": judged.now.allowed, "why": judged.now.why},
    }


def _steps(line: Data, judged: Judged | None, code: str) -> list[str]:
    """What to do: of a refusal, what would allow this very call and no more than that."""
    if judged is None:
        names = {"SOURCE": line["source"], "DESTINATION": _called(line), "TICKET": line["far_ticket"] or line["ticket"]}
        step = reason(code).next_step if code else ""
        return [re.sub("|".join(names), lambda match: str(names[match[0]] or match[0]), step)] if step else []
    if judged.now.allowed:
        return []
    call = f"meshagent intention allow {line['source']} {_called(line)}"
    if not line["method"]:
        return [call]
    return [f"{call} --method {shlex.quote(line['method'])} --path-exact {shlex.quote(line['path'])}"]
