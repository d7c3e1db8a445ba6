"""A gRPC service to call: one call that echoes, and a stream that ticks for ever."""

from __future__ import annotations

import asyncio

import grpc

from tests.system.live import free_port


class Clock:
    """`shop.Clock`, on a loopback port."""

    def __init__(self):
        self.port = free_port()
        self._server = grpc.aio.server()

    async def __aenter__(self):
        async def ticks(request, context):
            while True:
                yield b"tick"
                await asyncio.sleep(0.05)

        async def echo(request, context):
            return request

        handlers = {
            "Ticks": grpc.unary_stream_rpc_method_handler(ticks, None, None),
            "Echo": grpc.unary_unary_rpc_method_handler(echo, None, None),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Clock", handlers),))
        self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()
        return self

    async def __aexit__(self, *_):
        await self._server.stop(0)
