"""A mesh as it was read: web may call payments, batch by request, nobody else; payments has two instances and a route."""

from __future__ import annotations

from datetime import UTC, datetime

from meshagent.cli.mesh import Seen
from meshagent.model.kinds import KINDS
from meshagent.model.service import Instance
from meshagent.model.world import Origin, Stated

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
ORIGIN = Origin("policy.yaml", 3, "ann", NOW)


def stated(**data: object) -> Stated:
    return Stated(KINDS[data["kind"]].model_validate(data), {"": ORIGIN})


def instance(service: str, host: str = "vm-1", **more: object) -> Instance:
    values = {"service": service, "host": host, "id": service, "address": "10.0.0.1", "port": 21000, "protocol": "http"}
    return Instance.model_validate(values | more)


def shop(*more: Stated) -> Seen:
    reports = {"action": "allow", "http": {"path_prefix": "/reports"}}
    documents = [
        stated(kind="mesh", trust_domain="mesh.internal"),
        stated(
            kind="intention",
            name="payments",
            sources=[
                {"name": "web", "action": "allow", "reason": "INC-7"},
                {"name": "batch", "permissions": [reports]},
            ],
        ),
        stated(kind="service", name="payments", subsets={"v2": {"version": "2"}}, timeouts={"request": "2s"}),
        stated(
            kind="route",
            name="payments",
            rules=[
                {
                    "match": {"path_prefix": "/v2"},
                    "to": [{"subset": "v2", "weight": 9}, {"service": "web", "weight": 1}],
                }
            ],
        ),
        stated(
            kind="external",
            name="mail",
            hosts=["smtp.example.com"],
            port=25,
            protocol="tcp",
            tls={"mode": "passthrough"},
        ),
        *more,
    ]
    found = {(each.thing.kind, each.thing.name): each for each in documents}
    instances = (
        instance("payments"),
        instance("payments", "vm-2", health="failing", meta={"version": "2"}),
        instance("web"),
        instance("batch"),
    )
    return Seen(7, found, {}, instances)
