"""A store credential as it travels: what was packed comes out again, and nothing else does."""

from __future__ import annotations

import pytest

from meshagent.errors import UsageProblem
from meshagent.state.credentials import packed, rights_of, unpacked
from meshagent.state.keys import Keys
from meshagent.state.rights import Grantee
from meshagent.store.credentials import Credential


@pytest.mark.parametrize("credential", [Credential(token="t"), Credential(username="u", password="p")])
def test_what_was_packed_is_unpacked(credential):
    assert unpacked(packed(credential)) == credential


@pytest.mark.parametrize("data", [b"", b"secret-words", b'{"token": 7}', b'{"other": "secret-words"}', b"[]"])
def test_anything_else_is_refused_and_not_repeated(data):
    with pytest.raises(UsageProblem) as told:
        unpacked(data)
    assert "secret-words" not in f"{told.value}{told.value.next_step}"


def test_a_host_that_talks_to_several_consul_agents_may_hold_a_session_on_each():
    rules = rights_of(Grantee("agent", "vm-1", ("web",)), Keys(), ("n0", "n1")).rules.splitlines()
    assert 'session "n0" { policy = "write" }' in rules and 'session "n1" { policy = "write" }' in rules
    assert len(rules) == len(set(rules))
    assert not any(line.startswith("#") for line in rules)
