"""Two meshes judge a call: through comes only what both allow."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshagent.model.intention import HttpMatch, Permission
from meshagent.model.veto import NO_VETOES, Veto, Vetoes
from meshagent.model.view import Guard, Rule
from meshagent.policy.explain import explain
from meshagent.policy.request import Request
from meshagent.policy.vetoes import vetoed

NAMES = ["web", "orders", "batch"]
READ = (Permission(action="allow", http=HttpMatch(methods=("GET",))),)
answers = st.sampled_from(["allow", "deny", "read"])


def rule(source, answer):
    if answer == "read":
        return Rule(source, None, READ, f"payments/{source}")
    return Rule(source, answer, (), f"payments/{source}")


guards = st.builds(
    lambda named, everybody, default: Guard(
        "payments",
        tuple(rule(name, named[name]) for name in sorted(named)) + ((rule("*", everybody),) if everybody else ()),
        default,
    ),
    st.dictionaries(st.sampled_from(NAMES), answers),
    st.none() | answers,
    st.sampled_from(["allow", "deny"]),
)
vetoes = st.builds(Veto, st.dictionaries(st.sampled_from(NAMES), st.booleans()), st.booleans())


@given(guards, vetoes, st.sampled_from([*NAMES, "stranger"]), st.sampled_from(["GET", "POST"]))
def test_a_call_goes_through_when_both_meshes_allow_it(guard, veto, source, method):
    request = Request(method, "/")
    both = explain(guard, source, request).allowed and veto.allows(source)
    assert explain(vetoed(guard, veto), source, request).allowed == both


@given(guards, vetoes)
def test_no_two_rules_have_one_name_or_one_source(guard, veto):
    rules = vetoed(guard, veto).rules
    assert len({each.id for each in rules}) == len({each.source for each in rules}) == len(rules)
    assert [each.source for each in rules].index("*") == len(rules) - 1


@given(guards)
def test_where_nobody_else_has_a_say_nothing_changes(guard):
    assert vetoed(guard, NO_VETOES.of("payments")) is guard


@given(guards, st.sampled_from([*NAMES, "stranger"]))
def test_what_the_other_mesh_has_not_said_yet_is_no(guard, source):
    unknown = Vetoes(required=True, known={"other": Veto({}, others=True)}).of("payments")
    assert not explain(vetoed(guard, unknown), source, Request()).allowed


def test_a_deny_of_consul_says_whose_it_is():
    guard = Guard("payments", (rule("web", "allow"),), "deny")
    verdict = explain(vetoed(guard, Veto({"web": False}, others=True)), "web")
    assert (verdict.outcome, verdict.rule.id) == ("deny", "consul:payments/web")
