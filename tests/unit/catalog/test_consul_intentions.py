"""Consul's intentions for a service, as what they let through."""

from __future__ import annotations

import pytest

from meshagent.catalog.consul_intentions import veto_of


def row(source, action="allow", precedence=9, **more):
    return {"SourceName": source, "SourceNS": "default", "Action": action, "Precedence": precedence} | more


def test_a_name_that_consul_names_is_judged_by_that_and_others_by_the_wildcard():
    veto = veto_of([row("*", "allow", 8), row("web", "deny")], default=False)
    assert (veto.allows("web"), veto.allows("orders")) == (False, False), (
        "the default was asked of Consul, it includes the wildcard"
    )
    veto = veto_of([row("*", "allow", 8), row("web", "deny")], default=True)
    assert (veto.allows("web"), veto.allows("orders")) == (False, True)


def test_the_most_precise_intention_decides_in_whatever_order_they_come():
    veto = veto_of([row("web", "deny", 6), row("*", "deny", 8), row("web", "allow", 9)], default=False)
    assert veto.allows("web") and not veto.allows("orders")


@pytest.mark.parametrize("action", ["deny", "", None, "ALLOW", True])
def test_whatever_is_not_a_plain_allow_denies(action):
    assert not veto_of([row("web", action)], default=True).allows("web")


def test_an_intention_by_request_denies_for_it_cannot_be_judged_here():
    permissions = [{"Action": "allow", "HTTP": {"PathPrefix": "/"}}]
    assert not veto_of([row("web", "", Permissions=permissions)], default=True).allows("web")


@pytest.mark.parametrize("source", ["Web_1", "a.b", "", None, 7])
def test_a_deny_of_a_name_that_none_of_ours_can_have_denies_all_who_are_not_named(source):
    veto = veto_of([row("web"), row(source, "deny")], default=True)
    assert veto.allows("web") and not veto.allows("anybody")


def test_another_namespaces_deny_denies_strangers_and_its_allow_opens_nothing():
    assert not veto_of([row("web", "deny", SourceNS="team")], default=True).allows("anybody")
    assert not veto_of([row("web", "allow", SourceNS="team")], default=False).allows("web")


def test_without_intentions_the_default_holds():
    assert veto_of([], default=True).allows("web") and not veto_of([], default=False).allows("web")
