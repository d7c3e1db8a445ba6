"""A host whose address is another machine's, as in a container: where it listens, and how it calls its own instances."""

from __future__ import annotations

import pytest

from meshagent.policy.resolve import Host, resolve
from tests.unit.policy.worlds import LOCALS, NOTHING, NOW


@pytest.mark.parametrize(
    ("bind", "listens_on", "near"),
    [
        ("", "192.0.2.7", "192.0.2.7"),
        ("172.26.64.3", "172.26.64.3", "172.26.64.3"),
        ("0.0.0.0", "0.0.0.0", "127.0.0.1"),
        ("::", "::", "::1"),
    ],
)
def test_it_listens_where_it_is_told_and_calls_its_own_instances_there(bind, listens_on, near):
    caller, payments = LOCALS[0], LOCALS[2]
    view = resolve(NOTHING, Host("a", "192.0.2.7", bind=bind), (caller, payments), None, NOW)
    assert view.address == listens_on
    (way,) = [each for each in view.outbounds if each.upstream == "payments" and each.source == "web"]
    assert [endpoint.address for endpoint in way.endpoints] == [near]
