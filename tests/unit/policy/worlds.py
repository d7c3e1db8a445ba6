"""Worlds that follow each other by single changes, as the store gives them, for a host whose services change too."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from meshagent.model.external import External, ExternalTls
from meshagent.model.gateway import Gateway, GatewayListener, GatewayRoute
from meshagent.model.intention import Intention, IntentionSource
from meshagent.model.matching import RouteMatch
from meshagent.model.mesh import Mesh
from meshagent.model.route import Mirror, Route, RouteRule, Target
from meshagent.model.service import Instance, Service, ServiceDefinition
from meshagent.model.world import Local, Stated, World
from meshagent.policy.resolve import Host

NOW = datetime(2026, 11, 21, tzinfo=UTC)
HOST = Host("vm-1", "10.0.0.1", "eu", gateways=("edge",))
NAMES = ("web", "payments", "ledger", "orders")
BACKUP = {"web": "orders", "payments": "ledger", "ledger": "payments", "orders": "ledger"}
NOTHING = World(1, Mesh())


def definition(name, *upstreams, protocol="http", instance=None):
    first = 9000 + (10 if instance else 0)
    calls = [{"service": each, "local_port": first + NAMES.index(each)} for each in upstreams]
    return ServiceDefinition.model_validate(
        {"name": name, "id": instance, "port": 80, "protocol": protocol, "upstreams": calls}
    )


LOCALS = [
    Local(definition("web", "payments", "ledger"), 21000),
    Local(definition("web", "payments", "ledger", instance="web-2"), 21001),
    Local(definition("payments", "ledger", "web", protocol="tcp"), 21000),
    Local(definition("payments", "ledger", protocol="tcp"), 21000, healthy=False),
    Local(definition("orders"), 21000, draining=True),
    Local(definition("orders"), 21000, plain_port=80),
]

sources = st.builds(
    IntentionSource,
    name=st.sampled_from((*NAMES, "*")),
    action=st.sampled_from(("allow", "deny")),
    expires_at=st.none() | st.integers(-5, 20).map(lambda seconds: NOW + timedelta(seconds=seconds)),
    shadow=st.booleans(),
)
intentions = st.lists(sources, max_size=3, unique_by=lambda source: source.part)
instances = st.lists(
    st.builds(
        Instance,
        service=st.just("ledger"),
        host=st.sampled_from(("vm-1", "vm-2", "vm-3")),
        id=st.just("ledger"),
        address=st.sampled_from(("10.0.0.2", "10.0.0.3")),
        port=st.integers(21000, 21001),
        protocol=st.sampled_from(("http", "tcp")),
        health=st.sampled_from(("passing", "failing", "draining")),
        plain=st.booleans(),
        region=st.sampled_from(("eu", "us")),
        meta=st.sampled_from(({}, {"version": "v1"}, {"version": "v2"})),
    ),
    max_size=3,
)
services = st.none() | st.tuples(
    st.sampled_from(("http", "tcp", None)),
    st.sampled_from(("strict", "permissive", "permissive")),
    st.sampled_from(({}, {"v1": {"version": "v1"}, "v2": {"version": "v2"}})),
    st.sampled_from(("l7", "l4")),
)
targets = st.builds(
    Target,
    service=st.sampled_from((None, "ledger", "orders", "nobody")),
    subset=st.sampled_from((None, "v1", "v2")),
    weight=st.integers(1, 3),
)
rules = st.builds(
    RouteRule,
    to=st.lists(targets, max_size=3, unique_by=lambda target: (target.service, target.subset)).map(tuple),
    match=st.builds(
        RouteMatch, sources=st.sampled_from(((), ("web",))), regions=st.sampled_from(((), ("eu",), ("us",)))
    ),
    mirror=st.lists(st.builds(Mirror, subset=st.sampled_from((None, "v1"))), max_size=1).map(tuple),
)


externals = st.none() | st.builds(
    External,
    name=st.just("ledger"),
    hosts=st.just(("a.example",)),
    port=st.sampled_from((443, 8443)),
    protocol=st.sampled_from(("http", "tcp")),
    tls=st.sampled_from((ExternalTls(mode="originate"), ExternalTls(mode="none"))),
)


gateways = st.none() | st.builds(
    Gateway,
    name=st.just("edge"),
    listeners=st.sampled_from(((GatewayListener(port=8000),), (GatewayListener(port=8000), GatewayListener(port=80)))),
    routes=st.lists(
        st.builds(
            GatewayRoute,
            hosts=st.just(("shop.example",)),
            path_prefix=st.sampled_from(("/a", "/b")),
            service=st.sampled_from((*NAMES, "nobody")),
        ),
        max_size=2,
        unique_by=lambda route: route.path_prefix,
    ).map(tuple),
)


def _service(name, protocol, mtls, subsets, failover):
    steps = [{**step, "service": BACKUP[name]} if "service" in step else step for step in failover]
    facts = {"name": name, "protocol": protocol, "mtls": mtls, "subsets": subsets, "failover": steps}
    return Service.model_validate(facts)


@st.composite
def changes(draw):
    """A World made of another one by one change, as state/fold.py makes it: all else is the same object."""
    kind = draw(
        st.sampled_from(("intention", "instances", "service", "route", "external", "gateway", "mesh", "revision"))
    )
    name = draw(st.sampled_from((*NAMES, "*") if kind == "intention" else NAMES))
    if kind == "intention":
        document = Stated(Intention(name=name, sources=tuple(draw(intentions))))
        return lambda world: replace(world, intentions={**world.intentions, name: document})
    if kind == "instances":
        found = tuple(draw(instances))
        return lambda world: replace(world, instances={**world.instances, name: found})
    if kind == "service":
        said = draw(services)
        fields = dict(zip(("protocol", "mtls", "subsets", "data_path"), said or (), strict=False))
        held = {name: Stated(Service(name=name, **fields))} if said else {}
        return lambda world: replace(world, services={k: v for k, v in world.services.items() if k != name} | held)
    if kind == "route":
        route = Stated(Route(name=name, rules=tuple(draw(st.lists(rules, max_size=2)))))
        return lambda world: replace(world, routes={**world.routes, name: route})
    if kind == "external":
        outside = draw(externals)
        stated = {name: Stated(outside.model_copy(update={"name": name}))} if outside else {}
        return lambda world: replace(world, externals={k: v for k, v in world.externals.items() if k != name} | stated)
    if kind == "gateway":
        edge = draw(gateways)
        return lambda world: replace(world, gateways={"edge": Stated(edge)} if edge else {})
    mesh = Mesh(default_action=draw(st.sampled_from(("allow", "deny"))))
    return lambda world: replace(world, mesh=mesh if kind == "mesh" else world.mesh, revision=world.revision + 1)


steps = st.lists(
    st.tuples(
        st.lists(changes(), max_size=2),
        st.none()
        | st.lists(
            st.sampled_from(LOCALS), max_size=3, unique_by=lambda local: (local.definition.name, local.definition.id)
        ),
        st.integers(-3, 8),
    ),
    min_size=1,
    max_size=8,
)


def changed_instances(service, protocol):
    """One instance of the service, elsewhere."""
    found = Instance(service=service, host="vm-2", id=service, address="10.0.0.2", port=21000, protocol=protocol)
    return {service: (found,)}


def follow(steps, host_services=1):
    """(world, locals, now) after each step."""
    world, locals_, now = NOTHING, tuple(LOCALS[:host_services]), NOW
    for changed, others, seconds in steps:
        for change in changed:
            world = change(world)
        locals_ = locals_ if others is None else tuple(others)
        now += timedelta(seconds=seconds)
        yield world, locals_, now
