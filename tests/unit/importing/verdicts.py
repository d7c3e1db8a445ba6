"""What imported documents decide, and what Istio would have: written from its reference, knowing nothing of the importer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import yaml

from meshagent.importing.imported import import_policy
from meshagent.model.intention import Intention
from meshagent.model.mesh import Mesh
from meshagent.model.world import Stated
from meshagent.policy.explain import explain
from meshagent.policy.precedence import guard
from meshagent.policy.request import Request

NOW = datetime(2027, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Call:
    caller: str  # a service account in the namespace foo
    method: str = "GET"
    path: str = "/"
    headers: tuple[tuple[str, str], ...] = ()


def imported(objects, mesh="istio", given=None):
    text = "---\n".join(yaml.safe_dump(each, sort_keys=False) for each in objects)
    found = import_policy(mesh, [("policy.yaml", text)], given or {})
    assert not found.problems, found.problems
    return found


def judge(found, service):
    """Says of a call whether the documents let it through."""
    intentions = {each.name: Stated(each) for each in found.documents if isinstance(each, Intention)}
    judged = guard(service, "http", Mesh(), intentions, NOW)
    return lambda call: explain(judged, call.caller, Request(call.method, call.path, call.headers)).allowed


def ours(found, service, call):
    return judge(found, service)(call)


def istio(policies, call):
    """DENY and CUSTOM (whose judge says no) come first; then ALLOW, where there is one."""
    kinds = {kind: [each["spec"] for each in policies if each["spec"].get("action", "ALLOW") == kind] for kind in KINDS}
    if any(_matches(spec, call) for spec in kinds["DENY"] + kinds["CUSTOM"]):
        return False
    return not kinds["ALLOW"] or any(_matches(spec, call) for spec in kinds["ALLOW"])


KINDS = ("ALLOW", "DENY", "CUSTOM")


def _matches(spec, call):
    return any(_rule(rule, call) for rule in spec.get("rules", []))


def _rule(rule, call):
    sources = [_source(each["source"], call) for each in rule.get("from", [])]
    operations = [_operation(each["operation"], call) for each in rule.get("to", [])]
    return (
        (not sources or any(sources))
        and (not operations or any(operations))
        and all(_when(each, call) for each in rule.get("when", []))
    )


def _source(source, call):
    facts = {"principals": f"cluster.local/ns/foo/sa/{call.caller}", "namespaces": "foo", "ipBlocks": "10.0.0.1"}
    return _facts(source, facts)


def _operation(operation, call):
    return _facts(operation, {"methods": call.method, "paths": call.path, "hosts": "shop", "ports": "80"})


def _facts(conditions, facts):
    for name, values in conditions.items():
        plain = name[3].lower() + name[4:] if name.startswith("not") else name
        if any(_pattern(each, facts[plain]) for each in values) == name.startswith("not"):
            return False
    return True


def _when(when, call):
    key = when["key"]
    if key.startswith("request.headers["):
        name = key[len("request.headers[") : -1].lower()
        value = next((each for known, each in call.headers if known == name), None)
    else:
        value = {"source.principal": f"cluster.local/ns/foo/sa/{call.caller}", "source.namespace": "foo"}[key]
    wanted, refused = when.get("values"), when.get("notValues", [])
    fits = wanted is None or (value is not None and any(_pattern(each, value) for each in wanted))
    return fits and not (value is not None and any(_pattern(each, value) for each in refused))


def _pattern(pattern, value):
    if pattern == "*":
        return value != ""
    if pattern.startswith("*"):
        return value.endswith(pattern[1:])
    if pattern.endswith("*"):
        return value.startswith(pattern[:-1])
    return value == pattern
