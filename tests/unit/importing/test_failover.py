"""Failover by place and to other services, as other meshes write it."""

from __future__ import annotations

import pytest

from meshagent.documents.encode import plain
from tests.unit.importing.verdicts import imported

NEAREST = [{"zone": "any"}, {"region": "any"}]


def istio(locality, *, ejects=True):
    policy = {"loadBalancer": {"localityLbSetting": locality}}
    policy |= {"outlierDetection": {"consecutive5xxErrors": 3}} if ejects else {}
    return {
        "kind": "DestinationRule",
        "metadata": {"name": "a", "namespace": "default"},
        "spec": {"host": "payments", "trafficPolicy": policy},
    }


def consul(**fields):
    return {"Kind": "service-resolver", "Name": "payments", **fields}


def steps(found):
    return [plain(each).get("failover", []) for each in found.documents if each.kind == "service"]


def told(found):
    return [f"{note.verdict} {note.field}" for note in found.notes]


@pytest.mark.parametrize(
    ("setting", "wanted"),
    [
        ({"enabled": True}, NEAREST),
        ({"enabled": False}, []),
        ({"failover": [{"from": "eu", "to": "us"}]}, [{"zone": "any"}, {"region": "us"}]),
        (
            {"failover": [{"from": "eu", "to": "us"}, {"from": "us", "to": "eu"}]},
            [{"zone": "any"}, {"region": "us"}, {"region": "eu"}],
        ),
        (
            {"failover": [{"from": "asia", "to": "us"}, {"from": "us", "to": "eu"}]},
            [{"zone": "any"}, {"region": "us"}, {"region": "eu"}],
        ),
        ({"failoverPriority": ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"]}, NEAREST),
        ({"failoverPriority": ["topology.kubernetes.io/region"]}, [{"region": "any"}]),
    ],
)
def test_istios_localities_are_steps(setting, wanted):
    assert steps(imported([istio(setting)])) == [wanted]


def test_an_order_that_differs_by_caller_cannot_be_said_and_that_is_told():
    circle = [{"from": "eu", "to": "us"}, {"from": "us", "to": "asia"}, {"from": "asia", "to": "eu"}]
    found = imported([istio({"failover": circle})])
    assert steps(found) == [NEAREST]
    assert any(each.startswith("left out") and each.endswith("localityLbSetting.failover") for each in told(found))


def test_localities_without_ejection_and_shares_of_places_are_told():
    found = imported([istio({"distribute": [{"from": "eu/*", "to": {"eu/*": 100}}]}, ejects=False)])
    assert sorted(each.partition(" spec")[0] for each in told(found)) == ["left out", "mistake"]


@pytest.mark.parametrize(
    ("failover", "wanted"),
    [
        ({"*": {"Service": "backup"}}, [{"service": "backup"}]),
        ({"*": {"Targets": [{"Service": "b1"}, {"Service": "b2"}]}}, [{"service": "b1"}, {"service": "b2"}]),
        ({"*": {"Targets": [{"Service": "b1", "Peer": "far"}, {"Service": "b2"}]}}, [{"service": "b2"}]),
        ({"*": {"Service": "b1", "ServiceSubset": "v1"}}, None),
        ({"*": {"Datacenters": ["dc2"]}}, None),
        ({"v1": {"Service": "b1"}}, None),
    ],
)
def test_consuls_other_services_are_steps_and_the_rest_is_told(failover, wanted):
    found = imported([consul(Failover=failover)], "consul")
    assert steps(found) == ([wanted] if wanted else [])
    assert bool(found.notes) == (wanted is None or "Peer" in str(failover))


def test_consuls_nearness_comes_before_other_services_and_is_left_out_for_all_services():
    near = {"Mode": "failover"}
    found = imported([consul(PrioritizeByLocality=near, Failover={"*": {"Service": "b"}})], "consul")
    assert steps(found) == [[*NEAREST, {"service": "b"}]] and found.notes == ()
    every = imported([{"Kind": "proxy-defaults", "Name": "global", "PrioritizeByLocality": near}], "consul")
    assert every.documents == () and told(every) == ["left out PrioritizeByLocality"]
