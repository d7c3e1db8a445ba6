"""A guard under the intentions of another mesh: what either of the two refuses is refused."""

from __future__ import annotations

from dataclasses import replace

from meshagent.model.names import ANY
from meshagent.model.veto import Veto
from meshagent.model.view import Guard, Rule

_REASON = "Consul's intentions deny it"


def vetoed(guard: Guard, veto: Veto | None) -> Guard:
    """The guard with a rule of its own for whoever the two meshes judge otherwise than the rest."""
    if veto is None:
        return guard
    named = [rule.source for rule in guard.rules if rule.source != ANY]
    named += sorted(set(veto.named) - set(named))
    rules = [rule for source in named if (rule := _judged(guard, veto, source))]
    rules.append(_everybody(guard) if veto.others else _denied(guard, ANY))
    shadow = vetoed(guard.shadow, veto) if guard.shadow else None
    return replace(guard, rules=tuple(rules), shadow=shadow)


def _judged(guard: Guard, veto: Veto, source: str) -> Rule | None:
    """What holds for this source; None where that is what holds for everybody else."""
    ours = guard.rule_for(source)
    if not veto.allows(source):
        return _denied(guard, source)
    if ours is not None and ours.source == source:
        return ours
    if veto.others:
        return None
    return replace(_everybody(guard), source=source, id=f"{_everybody(guard).id}@{source}")


def _everybody(guard: Guard) -> Rule:
    """What our own intentions, or the mesh's default, say of a source that they do not name."""
    return guard.rule_for("") or Rule(
        ANY, guard.default, (), f"{guard.destination}/default", reason="the mesh's default"
    )


def _denied(guard: Guard, source: str) -> Rule:
    return Rule(source, "deny", (), f"consul:{guard.destination}/{source}", reason=_REASON)
