"""The guestbook's logic: gRPC to its callers (guestbook.proto), plain TCP to the database. It knows nothing of the mesh.

The sidecar of this host hands it calls on loopback, and takes what it sends to 127.0.0.1:9002 to the database.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct

_SERVING = b"\x08\x01"  # grpc.health.v1.HealthCheckResponse{status: SERVING}


class Database:
    """A client of db.py."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def ask(self, request: str) -> list[dict[str, Any]]:
        """The entries of an answer that ends. Raises OSError when the other side does not answer."""
        async with self._connected(request) as reader:
            entries = []
            while (line := await reader.readline()) != b"\n":
                if not line:
                    raise ConnectionError("the connection to db was closed without an answer")
                entries.append(json.loads(line))
            return entries

    async def follow(self) -> AsyncIterator[dict[str, Any]]:
        """Each new entry. Raises OSError when the connection ends."""
        async with self._connected("FROM") as reader:
            while line := await reader.readline():
                yield json.loads(line)
            raise ConnectionError("the connection to db was closed")

    @asynccontextmanager
    async def _connected(self, request: str) -> AsyncIterator[asyncio.StreamReader]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(f"{request}\n".encode())
            await writer.drain()
            yield reader
        finally:
            writer.close()


class Guestbook:
    """The four calls of guestbook.proto."""

    def __init__(self, database: Database, version: str) -> None:
        self._database = database
        self._about = {"version": version, "host": socket.gethostname()}

    async def sign(self, request: Struct, context: grpc.aio.ServicerContext) -> Struct:
        """Sign: the entry as it was written."""
        entry = MessageToDict(request)
        entry |= {"at": datetime.now(UTC).isoformat(timespec="seconds"), "written_by": self._about}
        (written,) = await _or_unavailable(context, self._database.ask(f"ADD {json.dumps(entry)}"))
        return _struct(written)

    async def list(self, _request: Struct, context: grpc.aio.ServicerContext) -> Struct:
        """List: every entry."""
        return _struct({"entries": await _or_unavailable(context, self._database.ask("ALL"))})

    async def about(self, _request: Struct, context: grpc.aio.ServicerContext) -> Struct:
        """About: who answers, and who asks."""
        return _struct(self._about | {"caller": _caller(context)})

    async def watch(self, _request: Struct, context: grpc.aio.ServicerContext) -> AsyncIterator[Struct]:
        """Watch: who answers, then each new entry."""
        yield _struct(self._about)
        try:
            async for entry in self._database.follow():
                yield _struct(entry)
        except OSError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))


async def _or_unavailable(context: grpc.aio.ServicerContext, asked: Any) -> Any:
    try:
        return await asked
    except OSError as error:
        await context.abort(grpc.StatusCode.UNAVAILABLE, f"db does not answer: {error}")


def _caller(context: grpc.aio.ServicerContext) -> str:
    """The caller's name as the sidecar read it in its certificate."""
    certificate = str(dict(context.invocation_metadata() or ()).get("x-forwarded-client-cert", ""))
    return dict(part.partition("=")[::2] for part in certificate.split(";")).get("URI", "nobody that was proven")


def _struct(value: dict[str, Any]) -> Struct:
    made = Struct()
    made.update(value)
    return made


def _handlers(guestbook: Guestbook) -> list[grpc.GenericRpcHandler]:
    def unary(call: Callable[..., Any]) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(call, Struct.FromString, Struct.SerializeToString)

    async def serving(_request: bytes, _context: grpc.aio.ServicerContext) -> bytes:
        return _SERVING

    calls = {"Sign": unary(guestbook.sign), "List": unary(guestbook.list), "About": unary(guestbook.about)}
    calls["Watch"] = grpc.unary_stream_rpc_method_handler(guestbook.watch, Struct.FromString, Struct.SerializeToString)
    return [
        grpc.method_handlers_generic_handler("guestbook.Guestbook", calls),
        grpc.method_handlers_generic_handler(
            "grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(serving)}
        ),
    ]


async def serve(port: int, db_port: int, version: str) -> None:
    """For ever."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(_handlers(Guestbook(Database(db_port), version)))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=7000)
    parser.add_argument("--db-port", type=int, default=9002)
    parser.add_argument("--version", default="v1")
    given = parser.parse_args()
    asyncio.run(serve(given.port, given.db_port, given.version))
