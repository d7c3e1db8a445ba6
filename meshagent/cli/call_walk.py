"""Where a call from one service to another breaks: each part of its way in turn. Pure: facts in, findings out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meshagent.cli.diagnosis import Finding, State
from meshagent.cli.rules import origin_words
from meshagent.errors import MeshError
from meshagent.model.reasons import reason

Data = Mapping[str, Any]
_HERE = "run it on {hosts}, where {source} runs"


@dataclass(frozen=True, slots=True)
class Facts:
    """What could be learnt of a call.

    `answer` is what `meshagent explain` says, `hosts` those on which the source runs; both from the store. `path` is what
    this host's agent says (`api/path.py`), `failed` its newest logged calls of the pair that failed.
    """

    source: str
    destination: str
    answer: Data | None = None
    store_error: MeshError | None = None
    hosts: Sequence[str] = ()
    path: Data | None = None
    agent_error: MeshError | None = None
    name: Finding | None = None  # whether applications find the destination's name; None: names are not answered here
    failed: Sequence[Data] = ()


def walk(facts: Facts) -> tuple[Finding, ...]:
    """Every finding, in the order of the way: the first that is bad is where the call breaks."""
    return (*_agent(facts), *_caller(facts), *_policy(facts), *_instances(facts), *_apps(facts), *_log(facts))


def broken_at(findings: Sequence[Finding]) -> Finding | None:
    """The first part that does not work."""
    return next((each for each in findings if each.state == "bad"), None)


def _agent(facts: Facts) -> Iterator[Finding]:
    if facts.agent_error:
        yield Finding("agent", "bad", facts.agent_error.message, facts.agent_error.next_step)
    if facts.store_error:
        yield Finding("store", "bad", facts.store_error.message, facts.store_error.next_step)


def _caller(facts: Facts) -> Iterator[Finding]:
    """The way from the app to the proxy beside it."""
    if facts.path is None:
        return
    source, host = facts.path["source"], facts.path["host"]
    if source is None:
        step = _HERE.format(hosts=" or ".join(facts.hosts), source=facts.source)
        if not facts.hosts:
            yield Finding(
                "source", "bad", f"{facts.source} runs on no host", f"register it: meshagent up {facts.source}"
            )
        elif not facts.path["apps"]:
            yield Finding(
                "source", "warning", f"{facts.source} does not run on {host}: its side is not seen here", step
            )
        return
    if facts.destination not in source["calls"]:
        step = f"add it to upstreams of {facts.source}'s definition and give that to meshagent up"
        yield Finding("upstream", "bad", f"{facts.source} does not declare that it calls {facts.destination}", step)
        return
    yield from (facts.name,) if facts.name else ()
    yield _identity(facts.source, source)
    yield _listener(facts, source["calls"][facts.destination])


def _identity(service: str, source: Data) -> Finding:
    if not source["expired"]:
        return Finding("identity", "ok", f"{service} has a certificate until {source['expires_at']}")
    why = f": {source['problem']}" if source["problem"] else ""
    ended = f"ended at {source['expires_at']}" if source["expires_at"] else "is not there"
    return Finding(
        "identity", "bad", f"the certificate of {service} {ended}{why}", "meshagent doctor; meshagent ca status"
    )


def _listener(facts: Facts, local: str | int) -> Finding:
    listener = facts.path["listener"] if facts.path else None
    if listener is None:
        step = "try again in some seconds; then: meshagent status"
        return Finding("listener", "bad", f"the agent has not worked out the way to {facts.destination} yet", step)
    if listener["rejected"]:
        return Finding(
            "listener", "bad", f"Envoy rejects {listener['name']}: {listener['rejected']}", "meshagent proxy status"
        )
    if not listener["there"]:
        return Finding("listener", "bad", f"Envoy does not listen as {listener['name']}", "meshagent proxy status")
    where = f"on {local}" if local else "for what is captured"
    return Finding("listener", "ok", f"Envoy takes calls to {facts.destination} {where}")


def _policy(facts: Facts) -> Iterator[Finding]:
    if facts.answer is None:
        return
    answer, called = facts.answer, f"{facts.source} -> {facts.destination}"
    told = f"{answer['why']} ({origin_words(answer['origin'])})"
    if answer["outcome"] == "depends":
        yield Finding("intention", "warning", f"it depends on the request: {told}", "name a method and a path")
    elif answer["allowed"]:
        yield Finding("intention", "ok", f"{called} is allowed: {told}")
    else:
        step = f"meshagent intention allow {facts.source} {answer['judge']}"
        yield Finding("intention", "bad", f"{called} is refused: {told}", step)
    yield from _route(facts, answer["route"])


def _route(facts: Facts, route: Data | None) -> Iterator[Finding]:
    if route is None or route.get("undecided"):
        return
    name = f"rule {route['rule']}" + (f" ({route['name']})" if route["name"] else "")
    where = f"{name} of route {facts.destination} ({origin_words(route['origin'])})"
    step = f"meshagent policy get route {facts.destination}"
    if route["answer"]:
        state: State = "warning" if route["answers"] else "bad"
        yield Finding("route", state, f"{where}: {route['answer']}", step)
    elif left := route["left_out"]:
        names = ", ".join(each["subset"] or each["service"] for each in left)
        yield Finding("route", "warning", f"{where} goes without {names}: no instance of it is in service", step)
    else:
        yield Finding("route", "ok", f"{where} decides")
    if route["fault"]:
        yield Finding("fault", "warning", f"{where} injects faults", step)


def _instances(facts: Facts) -> Iterator[Finding]:
    """Whom the call would reach, by the catalog and by trying."""
    if facts.answer is None or facts.answer.get("external") or (facts.answer["route"] or {}).get("answer"):
        return  # nobody is reached
    instances = facts.answer["instances"]
    if not instances:
        step = f"meshagent services --all; register it on its host: meshagent up {facts.destination}"
        yield Finding("instances", "bad", f"{facts.destination} runs nowhere", step)
        return
    for each in instances:
        if each["health"] != "passing":
            state: State = "warning" if any(other["called"] for other in instances) else "bad"
            what = f"{each['id']} on {each['host']} is {each['health']}"
            yield Finding(
                "instances", state, what, f"on {each['host']}: meshagent doctor {facts.source} {facts.destination}"
            )
    if reached := [each for each in instances if each["called"]]:
        yield Finding("instances", "ok", f"{len(reached)} of {len(instances)} in service")
    yield from _tried(facts)


def _tried(facts: Facts) -> Iterator[Finding]:
    endpoints = facts.path["endpoints"] if facts.path else ()
    usable = [each for each in endpoints if each["healthy"] and not each["code"] and not each["left_out"]]
    state: State = "warning" if usable else "bad"
    for each in endpoints:
        where = f"{each['address']}:{each['port']}"
        for words in each["left_out"]:
            yield Finding("endpoint", state, f"{where} is {words}", f"meshagent policy get service {facts.destination}")
        if each["healthy"] and each["code"]:
            about = "network" if each["code"] == "connect" else "tls"
            yield Finding(about, state, f"{where}: {each['said']} ({each['code']})", reason(each["code"]).next_step)
    if usable:
        yield Finding("tls", "ok", f"{len(usable)} of {len(endpoints)} prove to be {facts.destination}")


def _apps(facts: Facts) -> Iterator[Finding]:
    """The way from the destination's proxy to its app, where that is here."""
    for app in facts.path["apps"] if facts.path else ():
        about, called = "app", f"{app['id']} at {app['address']}"
        if not app["listening"]:
            yield Finding(about, "bad", f"Envoy does not take calls for {app['id']}", "meshagent proxy status")
        elif app["expired"]:
            yield Finding(about, "bad", f"{facts.destination} has no certificate that is in force", "meshagent doctor")
        elif app["problem"]:
            yield Finding(about, "bad", f"{called} cannot be reached: {app['problem']}", reason("app-down").next_step)
        elif app["failing"]:
            yield Finding(
                about, "bad", f"{called} fails its check: {'; '.join(app['failing'])}", "look at the app's log"
            )
        else:
            draining = ", but is draining" if app["draining"] else ""
            yield Finding(about, "warning" if draining else "ok", f"{called} takes connections{draining}")


def _log(facts: Facts) -> Iterator[Finding]:
    """What failed of late, by its reason; the newest ticket of each."""
    newest: dict[str, Data] = {}
    for each in facts.failed:
        newest.setdefault(each["reason"], each)
    for code, each in newest.items():
        times = sum(other["reason"] == code for other in facts.failed)
        what = f"{times} of the last calls failed with {code}: {reason(code).words}; the newest at {each['time']}"
        yield Finding("calls", "warning", what, f"meshagent explain {each['ticket'] or each['far_ticket']}")
