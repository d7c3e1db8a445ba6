"""What a change of routes means for requests, in words: `5 % of web's requests to payments below /v2 go to v2 (was 0 %)`."""

from __future__ import annotations

from collections.abc import Iterator

from meshagent.cli.rules import Data
from meshagent.model.matching import Cookie, QueryParameter, RouteHeader, RouteMatch
from meshagent.model.names import ANY
from meshagent.model.route import Route, RouteRule
from meshagent.policy.shifts import Place, Shift

_TOLD_AS_SHIFTS = ("name", "match", "to", "redirect", "respond")


def shift_rows(shift: Shift) -> Iterator[Data]:
    """One row for each place that gets another share."""
    for place in dict.fromkeys((*shift.after, *shift.before)):
        was, now = shift.before.get(place, 0.0), shift.after.get(place, 0.0)
        if was != now and (now or place != Place(shift.destination)):  # that is where requests go without a rule
            yield {
                "source": shift.source,
                "region": shift.region or None,
                "destination": shift.destination,
                "service": place.service or None,
                "subset": place.subset,
                "answer": place.answer,
                "percent": round(now, 4),
                "was": round(was, 4),
                "words": f"{now:.4g} % of {_requests(shift)} {_goes(place, shift)} (was {was:.4g} %)",
            }


def match_words(match: RouteMatch) -> str:
    """`GET below /v2 with x-user=ann`; empty for every request."""
    paths = (("exactly", match.path_exact), ("below", match.path_prefix), ("matching", match.path_regex))
    parts = [",".join(match.methods), *(f"{word} {path}" for word, path in paths if path is not None)]
    parts += ["in any case"] if match.ignore_case else []
    if match.grpc:
        parts.append(f"by gRPC for {match.grpc.service}" + (f"/{match.grpc.method}" if match.grpc.method else ""))
    asked = [_named(each) for each in match.headers]
    asked += [f"?{_named(each)}" for each in match.query] + [f"cookie {_named(each)}" for each in match.cookies]
    parts += [f"with {' and '.join(asked)}"] if asked else []
    return " ".join(filter(None, parts))


def rule_changes(old: Route | None, new: Route | None) -> Iterator[tuple[str, object, object]]:
    """(where, before, after) of what rules ask for besides their match and where they lead, rule by rule."""
    before, after = (route.rules if route else () for route in (old, new))
    for number in range(max(len(before), len(after))):
        was, is_ = (rules[number] if number < len(rules) else RouteRule() for rules in (before, after))
        name = is_.name or was.name
        for field in (each for each in RouteRule.model_fields if each not in _TOLD_AS_SHIFTS):
            if getattr(was, field) != getattr(is_, field):
                told = [rule.model_dump(mode="json", exclude_defaults=True).get(field) for rule in (was, is_)]
                yield f"rule {number}{f' ({name})' if name else ''}: {field}", told[0], told[1]


def _requests(shift: Shift) -> str:
    everybody = "every other caller's" if shift.besides else "every caller's"
    whose = everybody if shift.source == ANY else f"{shift.source}'s"
    other = " other" if shift.rest else ""
    region = f" from {shift.region}" if shift.region else ""
    asked = match_words(shift.match)
    what = "connections" if shift.connections else "requests"
    return f"{whose}{other} {what} to {shift.destination}{region}{f' {asked}' if asked else ''}"


def _goes(place: Place, shift: Shift) -> str:
    if place.answer is not None:
        return f"are answered {place.answer}"
    if place.service == shift.destination:
        return f"go to {place.subset or f'all of {place.service}'}"
    return f"go to {place.service}{f' {place.subset}' if place.subset else ''}"


def _named(asked: RouteHeader | QueryParameter | Cookie) -> str:
    regex = getattr(asked, "regex", None)
    forms = ((asked.exact, "{}={}"), (asked.prefix, "{}={}..."), (asked.suffix, "{}=...{}"), (regex, "{} matching {}"))
    words = next((form.format(asked.name, value) for value, form in forms if value is not None), asked.name)
    absent = getattr(asked, "invert", False) != (asked.present is False)
    return f"not {words}" if absent else words
