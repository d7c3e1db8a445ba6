"""Whether what was seen is what is expected, by a case or by `explain`. Pure.

Shares are judged by what that many calls can tell: 4.5 standard deviations, so that of a million right shares seven are
called wrong.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from meshagent.cli.arrivals import Came
from meshagent.cli.cases import Case, Miss
from meshagent.cli.live.marks import Place
from meshagent.cli.live.sightings import TELLING, Sighting
from meshagent.model.route import Route

_SIGMAS = 4.5
_NEVER = 1e-5  # a place of a share is missing by chance less often than that, or nothing is said of it
_WRITTEN = 0.05  # percent: shares are written with one digit behind the point
_PLACELESS = (("allowed",), ("denied",))  # an instance of several subsets; a connection that was refused
_ENDS = {"allow": "allowed", "deny": "denied", "malformed": "denied"}


@dataclass(frozen=True, slots=True)
class Expected:
    """What somebody says of a call; None: nothing. Shares are in percent."""

    end: str | None = None
    route: str | int | None = None
    places: Mapping[Place, float | None] | None = None
    statuses: Mapping[str, int] = field(default_factory=dict)  # by field: respond, redirect
    zones: Mapping[Place, frozenset[str]] = field(default_factory=dict)  # that the instances at a place stand in


@dataclass(frozen=True, slots=True)
class Seen:
    """The calls of one case. `marked`: whether rules can be told, which they cannot of TCP."""

    sightings: tuple[Sighting, ...]
    route: Route | None
    marked: bool = True

    @property
    def telling(self) -> tuple[Sighting, ...]:
        """Those that no limit and no injected fault came before."""
        return tuple(each for each in self.sightings if each.end in TELLING)

    @property
    def ends(self) -> tuple[str, ...]:
        """How they ended."""
        return tuple(dict.fromkeys(each.end for each in self.telling))

    @property
    def rules(self) -> tuple[int | None, ...]:
        """The rules that decided."""
        return tuple(dict.fromkeys(each.rule for each in self.sightings))

    @property
    def places(self) -> Counter[Place]:
        """How many came where, of those of which that is known for certain."""
        return Counter(next(iter(each.places)) for each in self.telling if len(each.places) == 1)

    def zones(self, place: Place) -> frozenset[str]:
        """Where the instances stand that answered at a place."""
        return frozenset(each.zone for each in self.telling if each.places == {place} and each.zone is not None)


def of_case(case: Case) -> Expected:
    """What a case expects."""
    places = {(each.service or case.destination, each.subset): each.percent for each in case.goes_to}
    statuses = {name: status for name in ("respond", "redirect") if (status := getattr(case, name)) is not None}
    zones = {
        (each.service or case.destination, each.subset): frozenset({each.zone}) for each in case.goes_to if each.zone
    }
    return Expected(case.expect, case.route, places or None, statuses, zones)


def of_explain(came: Came, asked: Expected) -> Expected:
    """What the evaluator says of that which is asked, as far as it is certain.

    It knows nothing of instances that fail: an end is told only where it is asked for.
    """
    answered = bool(asked.statuses)
    end = _ENDS.get(came.end) if asked.end or answered else None
    if came.undecided:
        return Expected(end)
    rule = came.way.rule if came.way else None
    places = {(each.service, each.subset): each.percent for each in came.arrivals}
    answers = {"respond": rule.respond, "redirect": rule.redirect} if rule else {}
    return Expected(
        end,
        None if asked.route is None else came.way.index if came.way else "none",
        places if asked.places and came.end != "malformed" else None,
        {name: answer.status for name, answer in answers.items() if answer and (answered or asked.end)},
        {(each.service, each.subset): each.zones for each in came.arrivals if len(each.zones) == 1 and asked.zones},
    )


def misses(expected: Expected, seen: Seen, shares: Mapping[Place, float]) -> tuple[Miss, ...]:
    """What is expected and was not seen. `shares`: what the evaluator says of each place, in percent."""
    return tuple(_misses(expected, seen, shares))


def untold(expected: Expected, seen: Seen) -> tuple[str, ...]:
    """The expectations of which these calls show nothing, either way."""
    route = expected.route is not None and not (seen.marked and seen.sightings)
    asked = {"expect": expected.end, "goes_to": expected.places, **expected.statuses}
    blind = [name for name, wanted in asked.items() if wanted is not None and not seen.telling]
    if "goes_to" not in blind and expected.places is not None and not seen.places and seen.ends in _PLACELESS:
        blind.append("goes_to")
    return (*blind, *(("route",) if route else ()))


def _misses(expected: Expected, seen: Seen, shares: Mapping[Place, float]) -> Iterator[Miss]:
    blind = untold(expected, seen)
    if expected.end is not None and "expect" not in blind and seen.ends != (expected.end,):
        yield Miss("expect", expected.end, end_words(seen))
    if expected.route is not None and "route" not in blind and not _is_route(expected.route, seen):
        yield Miss("route", str(expected.route), route_words(seen))
    shared = expected.places is None or _is_shared(expected.places, seen, shares)
    near = all(seen.zones(place) == zones for place, zones in expected.zones.items())
    if expected.places is not None and "goes_to" not in blind and not (shared and near):
        yield Miss("goes_to", _wanted(expected), place_words(seen, zones=bool(expected.zones)))
    for name, status in expected.statuses.items():
        if name not in blind and not (seen.ends == ("answered",) and seen.telling[0].status == status):
            yield Miss(name, str(status), place_words(seen))


def _is_route(wanted: str | int, seen: Seen) -> bool:
    if len(seen.rules) != 1:
        return False
    number = seen.rules[0]
    if number is None or seen.route is None:
        return wanted == "none"
    return wanted == number if isinstance(wanted, int) else wanted == seen.route.rules[number].name


def _is_shared(wanted: Mapping[Place, float | None], seen: Seen, shares: Mapping[Place, float]) -> bool:
    count = seen.places.total()
    if not count or not seen.places.keys() <= wanted.keys():
        return False
    for place, percent in wanted.items():
        likely = percent if percent is not None else shares.get(place, 0.0)
        if not seen.places[place] and (1 - likely / 100) ** count < _NEVER:
            return False
        if percent is not None and not _is_near(seen.places[place], count, percent / 100):
            return False
    return True


def _is_near(number: int, count: int, share: float) -> bool:
    spread = math.sqrt(share * (1 - share) / count)
    return abs(number / count - share) <= _SIGMAS * spread + _WRITTEN / 100


def end_words(seen: Seen) -> str:
    """How the calls ended, in words."""
    words = {
        "answered": f"answered {_status(seen.telling)} by the caller's own proxy",
        "unreached": f"answered {_status(seen.telling)}: it came to no app" if _status(seen.telling) else "no answer",
    }
    return " and ".join(words.get(end, end) for end in seen.ends)


def route_words(seen: Seen) -> str:
    """The rules that decided, in words."""
    return " and ".join(_rule_words(number, seen) for number in seen.rules)


def place_words(seen: Seen, *, zones: bool = False) -> str:
    """Where the calls came, in words."""
    count = seen.places.total()
    if not count or "answered" in seen.ends:
        return end_words(seen)
    places = sorted(seen.places.items(), key=str)
    shares = [
        f"{_place(place)} {100 * number / count:.4g} %{_in(seen.zones(place), zones)}" for place, number in places
    ]
    return f"{', '.join(shares)} of {count}"


def _status(sightings: Sequence[Sighting]) -> int:
    return next((each.status for each in sightings if each.end in ("answered", "unreached")), 0)


def _rule_words(number: int | None, seen: Seen) -> str:
    if number is None or seen.route is None:
        return "none"
    name = seen.route.rules[number].name
    return f"{number} ({name})" if name else str(number)


def _wanted(expected: Expected) -> str:
    shares = {place: f" {share:.4g} %" if share is not None else "" for place, share in (expected.places or {}).items()}
    places = (f"{_place(place)}{share}{_in(expected.zones.get(place, ()))}" for place, share in shares.items())
    return ", ".join(places)


def _in(zones: Collection[str], asked: bool = True) -> str:
    return f" in {' and '.join(sorted(zones))}" if zones and asked else ""


def _place(place: Place) -> str:
    return " ".join(part for part in place if part)
