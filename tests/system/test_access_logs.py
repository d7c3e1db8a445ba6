"""Access logs in the forms of others: Envoy's own format strings verbatim, in a file, on stdout, by OTLP. With a real Envoy."""

from __future__ import annotations

import asyncio
import json
import re
from types import SimpleNamespace

import grpc
import pytest
import pytest_asyncio
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse

from meshagent.envoy.locate import locate
from meshagent.model.logformat import operators
from tests.system.apps import HttpApp, TcpApp, get, raw
from tests.system.live import eventually, free_port, live_mesh
from tests.unit.model.test_logformat import CLASSIC

pytestmark = pytest.mark.asyncio(loop_scope="module")
FIELDS = {"verb": "%REQ(:METHOD)%", "took": "%DURATION%", "route": "%ROUTE_NAME%", "who": "app at 100%%"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop():
    """web calls payments, whose log is of Envoy's classic form, with one rule for stdout; and audit, whose log goes by OTLP."""
    received = []
    async with collecting(received) as collector, live_mesh() as mesh:
        agent = await mesh.agent()
        async with HttpApp(free_port(), "payments") as payments, TcpApp(free_port()) as ledger:
            await agent.up(name="payments", port=payments.port, protocol="http")
            await agent.up(name="audit", port=payments.port, protocol="http")
            await agent.up(name="ledger", port=ledger.port)
            local = {name: free_port() for name in ("payments", "audit", "ledger")}
            upstreams = [{"service": name, "local_port": port} for name, port in local.items()]
            await agent.up(name="web", port=free_port(), protocol="http", upstreams=upstreams)
            printed = {"only": "all", "to": "stdout", "fields": FIELDS}
            rules = [{"name": "shown", "match": {"path_prefix": "/shown"}, "access_log": printed}]
            classic = {"only": "all", "to": "file", "format": CLASSIC}
            documents = [
                {"kind": "mesh", "name": "mesh", "tracing": {"otlp": collector, "sampling": 0}},
                {"kind": "service", "name": "payments", "protocol": "http", "access_log": classic},
                {
                    "kind": "service",
                    "name": "ledger",
                    "access_log": {"only": "all", "to": "file", "format": "%BYTES_SENT% L"},
                },
                {"kind": "service", "name": "audit", "protocol": "http", "access_log": {"only": "all", "to": "otlp"}},
                {"kind": "route", "name": "payments", "rules": rules},
            ]
            for name in local:
                source = {"name": "web", "action": "allow"}
                documents.append({"kind": "intention", "name": name, "sources": [source]})
            await mesh.applied(await mesh.apply(*documents))
            yield SimpleNamespace(mesh=mesh, agent=agent, local=local, received=received, collector=collector)


async def test_the_classic_format_is_rendered_as_envoy_does(shop):
    assert (await get(shop.local["payments"], "/reports?page=2")).status == 200
    file = shop.agent.directory / "data" / "requests.log"
    await eventually(lambda: file.read_text().count('"GET /reports?page=2 HTTP/') == 2, 5, file.read_text())
    out, into = (line for line in file.read_text().splitlines() if "/reports?page=2" in line)
    if "web.payments" in out:
        out, into = into, out
    begins = (
        r'\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\] "GET /reports\?page=2 HTTP/[12](\.1)?" 200 - via_upstream - "-" 0 '
    )
    assert re.match(begins + r'\d+ \d+ - "-" "-" "[0-9a-f-]{36}" "app" "127\.0\.0\.1:\d+" ', out)
    assert re.match(begins, into) and " web.payments.mesh.internal " in into
    assert file.stat().st_mode & 0o777 == 0o600


async def test_a_rule_prints_its_fields_on_the_agents_stdout_and_the_rest_stays_where_it_was(shop):
    await get(shop.local["payments"], "/shown/1")
    expected = {"verb": "GET", "route": "shown", "who": "app at 100%"}

    def printed():
        lines = [json.loads(line) for line in shop.agent.log.read_text().splitlines() if '"verb"' in line]
        return [{name: line[name] for name in expected} for line in lines] == [expected]

    await eventually(printed, 5, shop.agent.tail())
    file = shop.agent.directory / "data" / "requests.log"
    await eventually(lambda: "/shown/1" in file.read_text(), 5)
    assert file.read_text().count("/shown/1") == 1  # the service's own proxy, of which the rule says nothing


async def test_by_otlp_come_the_agents_own_fields(shop):
    await get(shop.local["audit"], "/checked")
    await eventually(lambda: len([each for each in shop.received if each[1].get("path") == "/checked"]) == 2, 10)
    found = {service: told for service, told in shop.received if told.get("path") == "/checked"}
    assert found["web"]["side"] == "outbound to audit" and found["audit"]["rule"] == "audit/web"
    assert found["audit"]["source"] == "spiffe://mesh.internal/svc/web" and found["audit"]["status"] == "200"


async def test_connections_are_logged_in_such_forms_too(shop):
    await raw(shop.local["ledger"], b"12345", 0.3)
    file = shop.agent.directory / "data" / "requests.log"
    await eventually(lambda: "5 L\n" in file.read_text(), 5)


async def test_what_failed_is_in_the_agents_own_log_all_the_same_and_nothing_else(shop):
    await get(shop.local["payments"], "/reports")
    await shop.mesh.applied(await shop.mesh.intend("audit", nobody="allow"))
    refused = await get(shop.local["audit"], "/refused")
    assert refused.status == 403
    ticket = refused.headers["x-mesh-ticket"]
    await eventually(lambda: shop.agent.call("GET", f"/v1/requests?ticket={ticket}")["requests"], 5)
    assert all(each["reason"] for each in shop.agent.call("GET", "/v1/requests")["requests"])
    await shop.mesh.applied(await shop.mesh.intend("audit", web="allow"))


async def test_without_a_collector_logs_that_ask_for_one_hold_up_nothing(shop):
    """No command lets it come so far."""
    await shop.mesh.applied(await shop.mesh.apply({"kind": "mesh", "name": "mesh"}))
    assert shop.agent.status()["rejected"] == {}
    assert (await get(shop.local["audit"], "/alone")).status == 200
    tracing = {"otlp": shop.collector, "sampling": 0}
    await shop.mesh.applied(await shop.mesh.apply({"kind": "mesh", "name": "mesh", "tracing": tracing}))


async def test_envoy_takes_every_operator_that_a_document_may_use():
    log = {"@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog", "path": "/dev/null"}
    log["log_format"] = {"text_format_source": {"inline_string": " ".join(operators())}}
    proxy = {"@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "x"}
    proxy |= {"cluster": "x", "access_log": [{"name": "file", "typed_config": log}]}
    listener = {"name": "x", "address": {"socket_address": {"address": "127.0.0.1", "port_value": free_port()}}}
    listener["filter_chains"] = [{"filters": [{"name": "x", "typed_config": proxy}]}]
    cluster = {"name": "x", "type": "STATIC", "load_assignment": {"cluster_name": "x"}}
    config = json.dumps({"static_resources": {"clusters": [cluster], "listeners": [listener]}})
    envoy = await asyncio.create_subprocess_exec(
        *(str(locate()), "--mode", "validate", "-l", "critical", "--config-yaml", config),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await envoy.communicate()
    assert envoy.returncode == 0, said


def collecting(received):
    """A collector of logs; puts (service, attributes) of each into the list. Gives its address."""
    return _Collecting(received)


class _Collecting:
    def __init__(self, received):
        self._received = received
        self._server = None

    async def __aenter__(self):
        self._server = grpc.aio.server()
        method = grpc.unary_unary_rpc_method_handler(
            self._export, request_deserializer=ExportLogsServiceRequest.FromString
        )
        service = "opentelemetry.proto.collector.logs.v1.LogsService"
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": method}),))
        address = f"127.0.0.1:{free_port()}"
        assert self._server.add_insecure_port(address)
        await self._server.start()
        return address

    async def __aexit__(self, *_):
        await self._server.stop(None)

    async def _export(self, request, _):
        for resource in request.resource_logs:
            service = next(
                each.value.string_value for each in resource.resource.attributes if each.key == "service.name"
            )
            scopes = getattr(resource, "scope_logs", None) or resource.instrumentation_library_logs
            for scope in scopes:
                records = getattr(scope, "log_records", None) or scope.logs
                for record in records:
                    self._received.append((service, {each.key: each.value.string_value for each in record.attributes}))
        return ExportLogsServiceResponse().SerializeToString()
