"""Calls that were seen -> the least intentions that let them pass, and what of them a change would refuse. Pure.

Only what passes now is ever suggested: a call that is refused stays refused. And only what would not pass otherwise: under
what is said in shadow, or else under a default of deny.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from meshagent.model.intention import Intention, IntentionSource, Permission
from meshagent.model.names import ANY, HTTP_PROTOCOLS, Protocol
from meshagent.model.observed import CallKey, Observed
from meshagent.model.view import Guard, Rule
from meshagent.model.world import World
from meshagent.policy.carriage import data_path
from meshagent.policy.explain import Outcome, explain
from meshagent.policy.patterns import example_of, match_of, merged
from meshagent.policy.precedence import guard
from meshagent.policy.request import Request
from meshagent.policy.resolve import judged_protocol, protocol_of

REASON = "suggested from observed calls"
_MOST_PERMISSIONS = 40  # of one pair
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Suggestion:
    """One source's intention. `evidence` is what was seen of it: of each permission, where there are any, else of the pair.

    `blind`: permissions were asked for, and no request of the pair was logged.
    """

    destination: str
    source: IntentionSource
    evidence: tuple[Observed, ...]
    blind: bool = False


@dataclass(frozen=True, slots=True)
class Unsuggested:
    """Calls for which no intention is suggested, and why."""

    key: CallKey
    observed: Observed
    why: str


@dataclass(frozen=True, slots=True)
class Suggested:
    """`documents`: each destination's document as it would be, with what it has now."""

    suggestions: tuple[Suggestion, ...]
    documents: tuple[Intention, ...]
    left: tuple[Unsuggested, ...]


@dataclass(frozen=True, slots=True)
class Loss:
    """Observed calls that pass now and would not. `some`: of which of them, nobody can tell."""

    observed: Observed
    rule: Rule | None  # what would refuse them; None: the mesh's default
    some: bool = False


def gathered(found: Iterable[Observed]) -> tuple[Observed, ...]:
    """What several hosts saw, added up, in order."""
    sums: dict[CallKey, Observed] = {}
    for each in found:
        held = sums.get(each.key)
        if held is None:
            sums[each.key] = each
        else:
            hosts = tuple(sorted({*held.hosts, *each.hosts}))
            sums[each.key] = Observed(each.key, held.calls + each.calls, max(held.last, each.last), hosts)
    return tuple(sums[key] for key in sorted(sums))


def suggested(world: World, found: Sequence[Observed], now: datetime, *, by_request: bool) -> Suggested:
    """The intentions that are missing. `by_request`: for the requests that were logged, and no others of the source."""
    pairs: dict[Pair, list[Observed]] = defaultdict(list)
    for each in found:
        pairs[each.key.source, each.key.destination].append(each)
    made: list[Suggestion] = []
    left: list[Unsuggested] = []
    for (source, destination), seen in sorted(pairs.items(), key=lambda pair: (pair[0][1], pair[0][0])):
        judges = _judges(world, destination, now)
        refused = [each for each in seen if _refused(*judges, each.key)]
        if not refused:
            continue
        if why := _unsayable(source, judges[1]):
            left.append(Unsuggested(refused[0].key, refused[0], why))
        else:
            made.append(_suggestion(world, judges[1], refused, by_request=by_request))
    return Suggested(tuple(made), tuple(_documents(world, made)), tuple(left))


def losses(before: World, after: World, found: Iterable[Observed], now: datetime) -> Iterator[Loss]:
    """The observed calls that a change would refuse, in order."""
    for each in found:
        was, is_ = (_guard(world, each.key.destination, now) for world in (before, after))
        if _outcome(was, each.key) not in ("allow", "depends") or was == is_:
            continue
        outcome, rule = _outcome(is_, each.key), is_.rule_for(each.key.source)
        if outcome == "deny":
            yield Loss(each, rule)
        elif outcome == "depends" and rule != was.rule_for(each.key.source):
            yield Loss(each, rule, some=True)


def _judges(world: World, destination: str, now: datetime) -> tuple[Guard, Guard]:
    """What is in force, and what would refuse: the shadow, with a default of deny."""
    enforced = _guard(world, destination, now)
    return enforced, replace(enforced.shadow or enforced, default="deny", shadow=None)


def _guard(world: World, destination: str, now: datetime) -> Guard:
    return guard(destination, judged_protocol(world, destination), world.mesh, world.intentions, now)


def _refused(enforced: Guard, would: Guard, key: CallKey) -> bool:
    return _outcome(enforced, key) in ("allow", "depends") and _outcome(would, key) == "deny"


def _outcome(judge: Guard, key: CallKey) -> Outcome:
    request = Request(key.method, example_of(key.path)) if key.method else None
    return explain(judge, key.source, request).outcome


def _unsayable(source: str, would: Guard) -> str:
    """Why no intention can let the source's calls pass, or should; empty where one can."""
    if not source:
        return "nobody has proven who calls, so no intention can name it"
    rule = would.rule_for(source)
    if rule is not None and rule.source == source and rule.id.startswith(f"{would.destination}/"):
        return f"{rule.id} names the pair, and says that they are to be refused: take it back, or end the calls"
    return ""


def _suggestion(world: World, would: Guard, refused: Sequence[Observed], *, by_request: bool) -> Suggestion:
    source, destination = refused[0].key[:2]
    requests = [each for each in refused if each.key.method]
    asked = by_request and _sees_requests(world, destination, "http" if requests else "tcp")
    if asked and requests:
        rule = would.rule_for(source)
        rows = _by_pattern(requests)
        own = [Permission(action="allow", http=match_of(methods, path)) for path, (methods, _) in rows.items()]
        rest = rule.permissions if rule else ()  # what it may do by a rule for everybody goes on
        entry = IntentionSource(name=source, permissions=(*own, *rest), reason=REASON)
        return Suggestion(destination, entry, tuple(seen for _, seen in rows.values()))
    whole = [each for each in refused if not each.key.method] or [_sum(refused)]
    return Suggestion(destination, IntentionSource(name=source, action="allow", reason=REASON), tuple(whole[:1]), asked)


def _sees_requests(world: World, destination: str, seen: Protocol) -> bool:
    """Whether the destination's proxy does. Where nobody says any more how it speaks, it is as it was `seen`."""
    external = world.externals.get(destination)
    protocol = external.thing.protocol if external else protocol_of(world, destination, last=seen)
    return protocol in HTTP_PROTOCOLS and not data_path(world.services.get(destination), protocol)


def _by_pattern(requests: Sequence[Observed]) -> Mapping[str, tuple[set[str], Observed]]:
    """The methods and the evidence of each pattern of paths, in order."""
    patterns = merged({each.key.path for each in requests}, _MOST_PERMISSIONS)
    rows: dict[str, list[Observed]] = defaultdict(list)
    for each in requests:
        rows[patterns[each.key.path]].append(each)
    return {path: ({each.key.method for each in rows[path]}, _sum(rows[path])) for path in sorted(rows)}


def _sum(seen: Sequence[Observed]) -> Observed:
    hosts = tuple(sorted({host for each in seen for host in each.hosts}))
    pair = CallKey(seen[0].key.source, seen[0].key.destination)
    return Observed(pair, sum(each.calls for each in seen), max(each.last for each in seen), hosts)


def _documents(world: World, made: Collection[Suggestion]) -> Iterator[Intention]:
    for destination in sorted({each.destination for each in made}):
        new = {each.source.name: each.source for each in made if each.destination == destination}
        stated = world.intentions.get(destination)
        held = stated.thing.sources if stated and not stated.broken else ()
        kept = [each for each in held if each.shadow or each.name not in new]  # one of that name in force is over
        everybody = [each for each in kept if each.name == ANY]
        named = [each for each in kept if each.name != ANY]
        yield Intention(name=destination, sources=(*named, *(new[name] for name in sorted(new)), *everybody))
