"""Each kind of probe against a small real server on loopback."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import grpc
import pytest

from meshagent.host.probes import probe
from meshagent.model.service import Check


async def answering(answer, requests=None):
    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        if requests is not None:
            requests.append(head)
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


def check(**fields):
    return Check.model_validate({"timeout": "500ms", **fields})


@pytest.mark.parametrize(
    ("line", "passes"),
    [
        ("HTTP/1.1 200 OK", True),
        ("HTTP/1.1 204 No", True),
        ("HTTP/1.0 500 X", False),
        ("SSH-2.0-x", False),
        ("", False),
    ],
)
async def test_http_passes_on_2xx_alone(line, passes):
    server, port = await answering(f"{line}\r\n\r\n".encode())
    assert (await probe(check(http=f"http://127.0.0.1:{port}/health")))[0] is passes
    server.close()


async def test_http_does_not_follow_a_redirect():
    seen = []
    target, target_port = await answering(b"HTTP/1.1 200 OK\r\n\r\n", seen)
    location = f"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:{target_port}/\r\n\r\n"
    server, port = await answering(location.encode())
    assert (await probe(check(http=f"http://127.0.0.1:{port}/")))[0] is False
    assert seen == []
    server.close()
    target.close()


async def test_a_silent_app_fails_within_the_timeout():
    server, port = await answering(None)
    began = time.monotonic()
    passed, output = await probe(check(http=f"http://127.0.0.1:{port}/", timeout="200ms"))
    assert not passed and "0.2 s" in output and time.monotonic() - began < 2
    server.close()


async def test_tcp_passes_when_somebody_listens():
    server, port = await answering(b"")
    assert (await probe(check(tcp=f"127.0.0.1:{port}")))[0]
    server.close()
    await server.wait_closed()
    passed, output = await probe(check(tcp=f"127.0.0.1:{port}"))
    assert not passed and output


@pytest.mark.parametrize(("answer", "passes"), [(b"\x08\x01", True), (b"\x08\x02", False)])
async def test_grpc_asks_the_standard_health_service(answer, passes):
    asked = []

    async def health(request, context):
        asked.append(request)
        return answer

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(health, None, None)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    assert (await probe(check(grpc=f"127.0.0.1:{port}/shop.Cart", timeout="3s")))[0] is passes
    assert asked == [b"\x0a\x09shop.Cart"]
    await server.stop(0)


async def test_exec_passes_on_exit_0_without_a_shell_and_without_our_environment(monkeypatch):
    monkeypatch.setenv("A_SECRET", "hush")
    passed, output = await probe(check(exec=["/usr/bin/env"], timeout="3s"))
    assert passed and "hush" not in output and "PATH=" in output
    assert (await probe(check(exec=["/bin/sh", "-c", "echo no; exit 3"], timeout="3s"))) == (False, "no")
    assert (await probe(check(exec=["/nowhere/x"])))[0] is False
    assert (await probe(check(exec=["/bin/echo", "$HOME;"], timeout="3s"))) == (True, "$HOME;")


async def test_a_command_that_hangs_ends_with_all_that_it_started(tmp_path):
    file = tmp_path / "pid"
    command = f"sleep 60 & echo $! > {file}; sleep 60"
    passed, _ = await probe(check(exec=["/bin/sh", "-c", command], timeout="500ms"))
    assert not passed
    child = int(file.read_text())
    for _ in range(100):
        if not Path(f"/proc/{child}/cmdline").exists() or not Path(f"/proc/{child}/cmdline").read_bytes():
            break
        await asyncio.sleep(0.02)
    else:
        os.kill(child, 9)
        raise AssertionError("the grandchild lives on")
