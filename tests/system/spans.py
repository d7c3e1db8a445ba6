"""A collector of spans for tests: OTLP over gRPC, as Envoy sends it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.system.live import free_port


@dataclass(frozen=True)
class Span:
    """One span as it came."""

    service: str
    trace: str
    id: str
    parent: str
    tags: dict[str, str]

    @property
    def side(self) -> str:
        """Which proxy it is of: `web>api` where web calls, `>api` where api is called."""
        upstream = self.tags.get("mesh.upstream")
        return f"{self.service}>{upstream}" if upstream else f">{self.service}"


class Collector:
    """What was received on `address`."""

    def __init__(self, port: int) -> None:
        self.address = f"127.0.0.1:{port}"
        self.spans: list[Span] = []

    def of(self, trace: str) -> dict[str, Span]:
        """The spans of one trace by their side."""
        return {span.side: span for span in self.spans if span.trace == trace}

    async def export(self, request: ExportTraceServiceRequest, _: grpc.aio.ServicerContext) -> bytes:
        """TraceService/Export. The installed messages call scopes libraries, as OTLP did before; the wire is the same."""
        for resource in request.resource_spans:
            service = next(
                each.value.string_value for each in resource.resource.attributes if each.key == "service.name"
            )
            for scope in resource.instrumentation_library_spans:
                self.spans += [_span(service, span) for span in scope.spans]
        return ExportTraceServiceResponse().SerializeToString()


def _span(service: str, span: object) -> Span:
    tags = {each.key: each.value.string_value for each in span.attributes}
    return Span(service, span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(), tags)


@asynccontextmanager
async def collecting():
    """A collector that listens."""
    collector = Collector(free_port())
    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(
        collector.export, request_deserializer=ExportTraceServiceRequest.FromString
    )
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": method}),))
    assert server.add_insecure_port(collector.address)
    await server.start()
    try:
        yield collector
    finally:
        await server.stop(None)
