"""What one real answer shows: how the call ended, which rule its caller's Envoy took, and where it came. Pure.

Only what the answer says is seen. An app says its name, a proxy why it refuses, and a mark which rule and target it was.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from meshagent.cli.live.asking import Answer
from meshagent.cli.live.marks import PLACE, RULE, Place, place_of
from meshagent.demo.answering import APP_HEADER
from meshagent.model.route import Route, RouteRule
from meshagent.policy.request import Request, refused_header

End = Literal["allowed", "denied", "answered", "unreached", "limited", "broken"]
"""`answered`: by the caller's own proxy, as a rule says. `limited`: beyond a rate. `broken`: by an injected fault."""

TELLING: frozenset[End] = frozenset({"allowed", "denied", "answered", "unreached"})
_REFUSED = "x-mesh-refused"
_BY_ITS_DESTINATION = ("intention", "rate-limit", "crowded", "app-down", "app-broke")
_NO_SENSE = 400


@dataclass(frozen=True, slots=True)
class Sighting:
    """One call. `rule`: the number of the route's rule. `places`: where it came; several where that cannot be told apart.

    `zone`: where the app that answered stands.
    """

    end: End
    status: int = 0
    rule: int | None = None
    places: frozenset[Place] = frozenset()
    zone: str | None = None


@dataclass(frozen=True, slots=True)
class Scene:
    """What is known before a call: whom it calls, by which route, and subsets and zone of each instance by its app's name."""

    upstream: str
    route: Route | None
    subsets: Mapping[str, Collection[str]]
    zones: Mapping[str, str] = field(default_factory=dict)


def of_answer(answer: Answer, request: Request, scene: Scene) -> Sighting:
    """What the answer to a request shows."""
    number = int(answer.headers[RULE]) if RULE in answer.headers else None
    rule = scene.route.rules[number] if scene.route and number is not None else None
    app = answer.headers.get(APP_HEADER)
    end = _end(answer, request, rule, app)
    places = _places(answer, rule, app, scene) if end != "answered" else frozenset()
    return Sighting(end, answer.status, number, places, scene.zones.get(app or ""))


def of_line(line: str, *, arrived: bool, scene: Scene, candidates: Collection[Place]) -> Sighting:
    """What a TCP connection shows: the app's line, or that it ended without one. `candidates`: where it may lead.

    `arrived`: a proxy of the service took the connection, so that it was there that it was refused.
    """
    if not line:
        return Sighting("denied" if arrived else "unreached")
    service = line.partition("/")[0]
    known = scene.subsets.get(line, ())
    fitting = {place for place in candidates if place[0] == service and (place[1] is None or place[1] in known)}
    return Sighting("allowed", places=frozenset(fitting or {(service, None)}), zone=scene.zones.get(line))


def _end(answer: Answer, request: Request, rule: RouteRule | None, app: str | None) -> End:
    refused = answer.headers.get(_REFUSED)
    own = rule and (rule.respond or rule.redirect)
    if app is not None:
        return "allowed"
    if refused == "intention" or _malformed(answer, request, rule):
        return "denied"
    if refused in ("rate-limit", "crowded"):
        return "limited"
    if refused == "fault":
        return "broken"
    return "answered" if own and answer.status == own.status else "unreached"


def _malformed(answer: Answer, request: Request, rule: RouteRule | None) -> bool:
    """The caller's proxy answers 400 before any rule; the destination's ends a stream whose header's name it refuses."""
    if answer.status == _NO_SENSE and rule is None:
        return True
    return answer.headers.get(_REFUSED) == "broken" and refused_header(request) is not None


def _places(answer: Answer, rule: RouteRule | None, app: str | None, scene: Scene) -> frozenset[Place]:
    """The target that is marked, where the app that answered is one of it; else the app as it is."""
    place = place_of(answer.headers[PLACE]) if PLACE in answer.headers else (scene.upstream, None)
    if app is not None:
        service = app.partition("/")[0]
        if service != place[0]:
            return frozenset({(service, None)})
        if place[1] is not None and place[1] not in scene.subsets.get(app, ()):
            return frozenset({(app, None)})
    elif rule is None and answer.headers.get(_REFUSED) not in _BY_ITS_DESTINATION:
        return frozenset()
    return frozenset({place})
