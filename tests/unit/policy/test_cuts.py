"""Which open connections a change of policy ends."""

from __future__ import annotations

from meshagent.model.intention import Permission
from meshagent.model.view import Chain, Guard, Inbound, Rule
from meshagent.policy.cuts import MAX_CHAINS, chained_sources, next_chains, next_default_cut

READ = Permission.model_validate({"action": "allow", "http": {"methods": ["GET"]}})
WRITE = Permission.model_validate({"action": "allow", "http": {"methods": ["POST"]}})
NO_ADMIN = Permission.model_validate({"action": "deny", "http": {"path_prefix": "/admin"}})


def guard(default="deny", **sources):
    rules = []
    for name, value in sources.items():
        source = "*" if name == "anyone" else name
        action, permissions = (value, ()) if isinstance(value, str) else (None, tuple(value))
        rules.append(Rule(source, action, permissions, f"payments/{source}"))
    return Guard("payments", tuple(rules), default)


def inbound(rules, chains=None, default_cut=0):
    chains = chains if chains is not None else next_chains(None, rules, chained_sources(rules))
    return Inbound("payments", "payments", "http", "127.0.0.1", 80, 21000, rules, chains, default_cut)


def step(before, after):
    sources = chained_sources(after)
    return next_chains(before, after, sources), next_default_cut(before, after, sources)


def test_only_sources_that_may_do_something_have_a_chain():
    assert chained_sources(guard(web="allow", orders="deny", batch=[READ], anyone="allow")) == ("batch", "web")


def test_a_deny_takes_the_chain_away_and_leaves_everyone_else_alone():
    before = inbound(guard(web="allow", orders="allow"))
    assert step(before, guard(orders="allow")) == ((Chain("orders", 0),), 0)


def test_an_allow_moves_the_source_out_of_the_default_chain_which_holds_nobody_else_who_is_allowed():
    before = inbound(guard(orders="allow"))
    assert step(before, guard(web="allow", orders="allow")) == ((Chain("orders", 0), Chain("web", 0)), 1)


def test_fewer_permissions_cut_that_source_alone():
    before = inbound(guard(web="allow", orders="allow"))
    assert step(before, guard(web=[READ], orders="allow")) == ((Chain("orders", 0), Chain("web", 1)), 0)


def test_more_permissions_cut_nobody():
    before = inbound(guard(web=[READ]))
    assert step(before, guard(web=[READ, WRITE])) == ((Chain("web", 0),), 0)
    assert step(before, guard(web="allow")) == ((Chain("web", 0),), 0)


def test_a_deny_permission_added_in_front_cuts():
    before = inbound(guard(web=[READ]))
    assert step(before, guard(web=[NO_ADMIN, READ])) == ((Chain("web", 1),), 0)


def test_closing_to_strangers_drains_the_default_chain():
    before = inbound(guard(anyone="allow", web="allow"))
    assert step(before, guard(web="allow")) == ((Chain("web", 0),), 1)


def test_a_named_deny_while_strangers_are_allowed_drains_the_chain_that_may_hold_it():
    before = inbound(guard(anyone="allow"))
    assert step(before, guard(web="deny", anyone="allow")) == ((), 1)


def test_a_named_allow_while_strangers_are_allowed_drains_nobody():
    before = inbound(guard(anyone="allow"))
    assert step(before, guard(web="allow", anyone="allow")) == ((Chain("web", 0),), 0)


def test_taking_back_a_deny_drains_nobody_while_strangers_are_allowed():
    before = inbound(guard(web="deny", anyone="allow"))
    assert step(before, guard(anyone="allow")) == ((), 0)


def test_the_mesh_default_counts_as_a_rule_for_strangers():
    before = inbound(guard(default="allow"))
    assert step(before, guard(default="deny")) == ((), 1)


def test_counts_go_on_from_what_was_in_force():
    before = inbound(guard(web="allow"), chains=(Chain("web", 4),), default_cut=7)
    assert step(before, guard(web=[READ])) == ((Chain("web", 5),), 7)


def test_sources_beyond_the_bound_share_the_default_chain_and_a_deny_of_one_drains_it():
    names = {f"s{number:03}": "allow" for number in range(MAX_CHAINS + 1)}
    before = inbound(guard(**names))
    last = f"s{MAX_CHAINS:03}"
    assert len(before.chains) == MAX_CHAINS and before.default_open
    chains, default_cut = step(before, guard(**{name: action for name, action in names.items() if name != last}))
    assert (len(chains), default_cut) == (MAX_CHAINS, 1)


def test_a_first_view_cuts_nothing():
    assert step(None, guard(web="allow")) == ((Chain("web", 0),), 0)
