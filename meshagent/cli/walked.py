"""`meshagent doctor SOURCE DESTINATION`: what is asked for it, of the store and of this host's agent."""

from __future__ import annotations

from dataclasses import asdict, replace

from meshagent.cli.call_walk import Facts, broken_at, walk
from meshagent.cli.diagnosis import Finding
from meshagent.cli.explain import answer_of
from meshagent.cli.lookups import look_up
from meshagent.cli.output import Table, show
from meshagent.cli.session import Session
from meshagent.errors import MeshError
from meshagent.host.resolver import looked_up
from meshagent.policy.request import Request
from meshagent.state.catalog import read_reports

_OF_LATE = "10m"


async def walked(session: Session, source: str, destination: str, request: Request | None) -> int:
    """Walk the way of a call and show it. 1 when it breaks somewhere."""
    facts = await _of_agent(session, await _of_store(session, source, destination, request))
    findings = walk(facts)
    rows = [(each.state, each.about, each.what, each.next_step) for each in findings]
    broken = broken_at(findings)
    words = f"breaks at: {broken.about}" if broken else "nothing on this way is found to be broken"
    data = {"breaks_at": broken.about if broken else None, "findings": [asdict(each) for each in findings]}
    show(data, session.form(), Table(("STATE", "ABOUT", "WHAT", "NEXT"), rows), words)
    return 1 if broken else 0


async def _of_store(session: Session, source: str, destination: str, request: Request | None) -> Facts:
    facts = Facts(source, destination)
    try:
        async with session.mesh() as mesh:
            seen = await mesh.read()
            reports = await read_reports(mesh.store, mesh.keys)
    except MeshError as error:
        return replace(facts, store_error=error)
    answer = answer_of(seen, reports, source, destination, request)
    hosts = sorted({each.host for each in seen.world().instances.get(source, ())})
    return replace(facts, answer=answer.whole, hosts=hosts)


async def _of_agent(session: Session, facts: Facts) -> Facts:
    agent, pair = session.agent(), {"source": facts.source, "destination": facts.destination}
    try:
        status, path = await agent.status(), await agent.call_path(**pair)
        logged = await agent.requests(**pair, since=_OF_LATE, failed="1")
    except MeshError as error:
        return replace(facts, agent_error=error)
    name = _name(status["dns"], facts.destination) if path["source"] else None
    return replace(facts, path=path, failed=logged["requests"], name=name)


def _name(dns: dict[str, object] | None, service: str) -> Finding | None:
    """Whether applications find the service by its name, where this host answers it."""
    if not dns or not dns["listening"]:
        return None
    seen = look_up(service, str(dns["zone"]), looked_up)
    if seen.ok:
        return Finding("name", "ok", f"applications find {seen.name}")
    where = f"find {', '.join(seen.found)} under it" if seen.found else "do not find it"
    return Finding("name", "warning", f"{seen.name}: applications {where}", "meshagent dns install; meshagent dns show")
