"""What routes may say and most likely do not mean. Pure; `lints` gives each check its code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from meshagent.cli.reading import Written, finding
from meshagent.errors import Problem
from meshagent.model.kinds import Document
from meshagent.model.route import Mirror, Route, RouteRule, Target
from meshagent.model.service import Instance, Service
from meshagent.policy.covers import covers_route
from meshagent.policy.ways import place
from meshagent.state.changes import Name

Instances = Sequence[Instance]
Documents = Mapping[Name, Document]


def empty_places(written: Written, instances: Instances, documents: Documents) -> Iterator[Problem]:
    """Subsets to which no registered instance of a service belongs, where others get the requests in their place."""
    for number, rule in _rules(written):
        weighty = [target for target in rule.to if target.weight]
        if weighty and all(_empty(target, written, instances, documents) for target in weighty):
            continue  # what L011 says
        for index, target in enumerate(rule.to):
            if target.weight and _empty(target, written, instances, documents):
                left = "its share is answered 503" if rule.strict else "its share goes to the others"
                yield finding(written, f"{_no_instance(target, written)}: {left}", "rules", number, "to", index)
        for index, mirror in enumerate(rule.mirror):
            if _empty(mirror, written, instances, documents):
                yield finding(
                    written, f"{_no_instance(mirror, written)}: no copy arrives", "rules", number, "mirror", index
                )


def never_met(written: Written) -> Iterator[Problem]:
    """Rules whose requests an earlier one takes."""
    rules = list(_rules(written))
    for number, later in rules:
        first = next((before for before, rule in rules[:number] if covers_route(rule.match, later.match)), None)
        if first is not None:
            words = f"is never reached: rule {first} before it takes all that this one matches"
            yield finding(written, words, "rules", number)


def nowhere(written: Written, instances: Instances, documents: Documents) -> Iterator[Problem]:
    """Splits of which all that has a weight is empty."""
    for number, rule in _rules(written):
        weighty = [target for target in rule.to if target.weight]
        if weighty and all(_empty(target, written, instances, documents) for target in weighty):
            spare = " (a target of weight 0 is no fallback)" if len(weighty) < len(rule.to) else ""
            others = ", nor in what else has a weight" if len(weighty) > 1 else ""
            words = f"{_no_instance(weighty[0], written)}{others}: requests are answered 503{spare}"
            yield finding(written, words, "rules", number, "to")


def no_time_to_retry(written: Written) -> Iterator[Problem]:
    """Retries after a try that may last as long as all of them together."""
    for number, rule in _rules(written):
        if rule.timeout and rule.retry and rule.retry.attempts and rule.retry.per_try_timeout is None:
            words = "has no per_try_timeout: one try that hangs uses up the timeout, and nothing is tried again"
            yield finding(written, words, "rules", number, "retry")


def copied_to_itself(written: Written) -> Iterator[Problem]:
    """Copies to where the requests go."""
    for number, rule in _rules(written):
        called = {_place(target, written) for target in rule.to or (Target(),) if target.weight}
        for index, mirror in enumerate(rule.mirror):
            service, subset = _place(mirror, written)
            if (service, subset) in called or (subset is None and service in {name for name, _ in called}):
                words = f"copies requests to {service}, which gets them already: it does everything twice"
                yield finding(written, words, "rules", number, "mirror", index)


def _rules(written: Written) -> Iterator[tuple[int, RouteRule]]:
    if isinstance(written.document, Route):
        yield from enumerate(written.document.rules)


def _place(target: Target | Mirror, written: Written) -> tuple[str, str | None]:
    return place(target, written.document.name), target.subset


def _empty(target: Target | Mirror, written: Written, instances: Instances, documents: Documents) -> bool:
    """Whether a service that has instances has none in the subset. A new service has none at all yet."""
    service, subset = _place(target, written)
    document = documents.get(("service", service))
    registered = [each for each in instances if each.service == service]
    if subset is None or not registered or not isinstance(document, Service):
        return False
    return not any(subset in document.subsets_of(each.meta) for each in registered)


def _no_instance(target: Target | Mirror, written: Written) -> str:
    service, subset = _place(target, written)
    return f"no registered instance of {service} is in the subset {subset}"
