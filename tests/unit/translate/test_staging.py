"""Routes to clusters that Envoy does not have yet follow when it has them."""

from __future__ import annotations

import pytest

from meshagent.translate.staging import staged
from meshagent.xds.types import CDS, ECDS, EDS, LDS, RDS

WAY, CONNECTION = (RDS, "out/web/payments"), (ECDS, "out/web/queue")
ENTRANCE = (RDS, "gateway/edge")
REST = [
    (LDS, "in/21000"),
    (EDS, "out/web/ledger"),
    (ECDS, "rbac/payments"),
    (RDS, "in/payments/payments"),
    (LDS, "gateway/edge:8443"),
]


@pytest.mark.parametrize("new", ["out/web/ledger", "out/web/payments#v2", "plain/web/payments"])
def test_ways_wait_for_a_new_cluster_that_they_may_lead_to_and_nothing_else_does(new):
    changed = dict.fromkeys([WAY, CONNECTION, ENTRANCE, (CDS, new), *REST], b"")
    first, later = staged(changed, lambda name: name == new)
    assert later.keys() == {WAY, CONNECTION, ENTRANCE}
    assert first.keys() == {(CDS, new), *REST}


@pytest.mark.parametrize("kind", [CDS, EDS])
@pytest.mark.parametrize("name", ["out/web/ledger", "app/payments/payments"])
def test_without_a_new_cluster_on_a_way_all_goes_at_once(kind, name):
    changed = dict.fromkeys([WAY, (kind, name), *REST], b"")
    assert staged(changed, lambda cluster: cluster.startswith("app/")) == (changed, {})
