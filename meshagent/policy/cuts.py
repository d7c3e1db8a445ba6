"""Which open connections a policy change must end, and only those.

An allowed source has a filter chain of its own; everyone else shares the default chain. A chain's connections end when the
chain goes or when its `cut` changes. Measured recipe: design, section 10 ("a deny cuts what is already open").
"""

from __future__ import annotations

from meshagent.model.view import Chain, Guard, Inbound, Rule

MAX_CHAINS = 64  # per service; further sources share the default chain, which a stricter change then drains as a whole
_STRANGER = ""  # stands for every source that no rule names


def chained_sources(guard: Guard) -> tuple[str, ...]:
    """The sources that get a chain of their own: named ones that may do something."""
    named = (rule.source for rule in guard.rules if rule.source != "*" and not _denies(rule))
    return tuple(sorted(named)[:MAX_CHAINS])


def next_chains(before: Inbound | None, guard: Guard, sources: tuple[str, ...]) -> tuple[Chain, ...]:
    """The chains in force, counting up the cut of each source that may do less than before."""
    old = {chain.source: chain.cut for chain in before.chains} if before else {}
    return tuple(
        Chain(
            source,
            old.get(source, 0) + int(before is not None and source in old and stricter(before.guard, guard, source)),
        )
        for source in sources
    )


def next_default_cut(before: Inbound | None, guard: Guard, sources: tuple[str, ...]) -> int:
    """The default chain's cut: counts up when someone in it may do less, and when someone moves out of it.

    While strangers are denied the chain holds nobody who is allowed, so moving somebody out costs nobody anything. While
    strangers are allowed, a source that gets its own chain is left where it is, and is cut when it is denied.
    """
    if before is None:
        return 0
    had_chain = {chain.source for chain in before.chains}
    strangers_allowed = not _denies(before.guard.rule_for(_STRANGER), before.guard)
    less = {name for name in _names(before.guard) | _names(guard) if stricter(before.guard, guard, name)}
    concerned = less if strangers_allowed else less - had_chain
    moved = () if strangers_allowed else [source for source in sources if source not in had_chain]
    return before.default_cut + int(bool(concerned or moved))


def _names(guard: Guard) -> set[str]:
    return {rule.source for rule in guard.rules if rule.source != "*"} | {_STRANGER}


def _denies(rule: Rule | None, guard: Guard | None = None) -> bool:
    if rule is None:
        return guard is not None and guard.default == "deny"
    return rule.action == "deny"


def stricter(before: Guard, guard: Guard, source: str) -> bool:
    """Whether the source may do less now. A longer list of permissions that begins like the old one allows no less."""
    old, new = before.rule_for(source), guard.rule_for(source)
    if _denies(old, before):
        return False
    if _denies(new, guard):
        return True
    old_list, new_list = old.permissions if old else (), new.permissions if new else ()
    if not new_list:
        return False
    if not old_list:
        return True
    added = new_list[len(old_list) :]
    return new_list[: len(old_list)] != old_list or any(permission.action == "deny" for permission in added)
