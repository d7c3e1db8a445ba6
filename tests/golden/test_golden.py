"""Documents in -> view and Envoy resources out, compared with what was reviewed; and a table of calls for each case.

A case is a folder: input.yaml (documents, services of the host, calls with their verdicts), view.yaml, envoy.yaml.
"""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from google.protobuf.json_format import MessageToJson

from meshagent.model.certificate import KeyPair
from meshagent.model.identity import TrustBundle
from meshagent.model.kinds import KINDS
from meshagent.model.mesh import Mesh
from meshagent.model.rollout import Progress
from meshagent.model.service import Instance, ServiceDefinition
from meshagent.model.world import Local, Origin, Stated, World
from meshagent.policy.explain import doubted, explain
from meshagent.policy.request import Request, judged_path
from meshagent.policy.resolve import Host, resolve
from meshagent.translate.rbac import caller_rules, guard_rules
from meshagent.translate.resources import translate
from meshagent.translate.settings import Settings
from meshagent.xds.types import CDS, ECDS, EDS, LDS, RDS, SDS, short_name
from tests.unit.translate.walker import allowed

HERE = Path(__file__).parent
CASES = sorted(path.parent.name for path in HERE.glob("*/input.yaml"))
HOST = Host("vm-1", "10.0.0.11", "eu", "eu-1a")
NOW = datetime(2026, 11, 21, tzinfo=UTC)
PAIR = KeyPair(b"chain", b"key")
MESSAGES = {
    CDS: Cluster,
    EDS: ClusterLoadAssignment,
    LDS: Listener,
    RDS: RouteConfiguration,
    SDS: Secret,
    ECDS: TypedExtensionConfig,
}


def view_of(case):
    data = yaml.safe_load((HERE / case / "input.yaml").read_text())
    documents = [KINDS[each["kind"]].model_validate(each) for each in data["documents"]]
    by_kind = {kind: {each.name: Stated(each) for each in documents if each.kind == kind} for kind in KINDS}
    mesh = by_kind["mesh"]["mesh"].thing if by_kind["mesh"] else Mesh()
    bundle = TrustBundle((("mesh.internal", ("-----BEGIN CERTIFICATE-----\n",)),))
    instances = {}
    for each in data.get("instances", ()):
        found = Instance.model_validate({"host": "vm-2", "id": each["service"], "port": 21000, **each})
        instances[found.service] = (*instances.get(found.service, ()), found)
    world = World(
        1,
        mesh,
        by_kind["intention"],
        by_kind["service"],
        instances,
        bundle,
        by_kind["route"],
        externals=by_kind["external"],
        gateways=by_kind["gateway"],
        rollouts=by_kind["rollout"],
        progress={name: Progress.model_validate(each) for name, each in data.get("progress", {}).items()},
    )
    locals_ = []
    for number, each in enumerate(data["services"]):
        definition = ServiceDefinition.model_validate(each)
        stated = world.services.get(definition.name)
        plain = definition.port if stated and stated.thing.mtls == "permissive" else 0
        port, capture = 21000 + (number if definition.id else 0), 15001 + number if definition.capture else 0
        locals_.append(Local(definition, port, plain_port=plain, capture_port=capture))
    host = dataclasses.replace(HOST, gateways=tuple(by_kind["gateway"]))
    return resolve(world, host, tuple(locals_), None, NOW), data["calls"]


def compare(request, path, text):
    if request.config.getoption("--update-golden"):
        path.write_text(text)
    assert path.read_text() == text, f"{path} differs: read the difference, then pytest tests/golden --update-golden"


def plain(value):
    """Dataclasses and models as plain data, without what is empty."""
    if value == Origin():
        return None
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif hasattr(value, "model_dump"):
        value = value.model_dump(mode="json", exclude_defaults=True)
    if isinstance(value, dict):
        return {key: found for key, each in value.items() if (found := plain(each)) not in (None, "", [], {})}
    return [plain(each) for each in value] if isinstance(value, tuple | list) else value


@pytest.mark.parametrize("case", CASES)
def test_the_view_is_as_reviewed(case, request):
    view, _ = view_of(case)
    compare(request, HERE / case / "view.yaml", yaml.safe_dump(plain(view), sort_keys=False, width=120))


@pytest.mark.parametrize("case", CASES)
def test_the_resources_are_as_reviewed(case, request):
    view, _ = view_of(case)
    shown_outside = {each.place: PAIR for gateway in view.gateways for each in gateway.certificates}
    resources = translate(view, {}, Settings("/var/lib/meshagent/access.log"), key_pairs=shown_outside).resources
    shown = {}
    for (type_url, name), value in sorted(resources.items()):
        shown[f"{short_name(type_url)} {name}"] = json.loads(MessageToJson(MESSAGES[type_url].FromString(value)))
    compare(request, HERE / case / "envoy.yaml", yaml.safe_dump(shown, width=120))


@pytest.mark.parametrize("case", CASES)
def test_each_call_is_judged_as_the_table_says_by_explain_and_by_the_generated_filter(case):
    view, calls = view_of(case)
    for call in calls:
        outside = next(
            (each for each in view.egresses if (each.source, each.upstream) == (call["from"], call["to"])), None
        )
        judge = outside or next(each for each in view.inbounds if each.service == call["to"])
        headers = tuple((call.get("headers") or {}).items())
        request = Request(call.get("method", "GET"), call.get("path", "/"), headers)
        assert explain(judge.guard, call["from"], request).allowed == call["allowed"], call
        uri = f"spiffe://mesh.internal/svc/{call['from']}"
        domains = TrustBundle().domains("mesh.internal")
        rules = caller_rules(judge.guard, outside.source) if outside else guard_rules(judge.guard, domains)
        assert allowed(rules, [uri], request, judged_path(request.path)) == call["allowed"], call
        doubt = doubted(judge.guard, call["from"], request)
        assert (doubt is not None) == (call.get("shadow") == "denied"), call
        if judge.guard.shadow and call["allowed"]:
            shadow = (
                caller_rules(judge.guard.shadow, outside.source)
                if outside
                else guard_rules(judge.guard.shadow, domains)
            )
            assert allowed(shadow, [uri], request, judged_path(request.path)) == (doubt is None), call
