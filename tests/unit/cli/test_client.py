"""The client of the local API: what an agent answers, and every way in which it does not."""

from __future__ import annotations

import asyncio
import socket
import threading
from socketserver import BaseRequestHandler, UnixStreamServer

import pytest

from meshagent.api.client import AgentClient, error_of, socket_path
from meshagent.errors import (
    AgentUnreachable,
    EnvoyFailed,
    InvalidDocument,
    MeshError,
    NotFound,
    PortInUse,
    UsageProblem,
)
from meshagent.model.service import ServiceDefinition


@pytest.fixture
def client(short_dir):
    return AgentClient(f"unix://{short_dir}/agent.sock")


@pytest.fixture
def raw(short_dir):
    """Answers each connection with the bytes that the test puts in, however wrong they are."""
    answers: list[bytes] = []

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            self.request.sendall(answers.pop(0))

    server = UnixStreamServer(str(short_dir / "agent.sock"), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield answers
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("code", "kind"), [("E103", NotFound), ("E501", PortInUse), ("E403", EnvoyFailed), ("E101", UsageProblem)]
)
def test_an_error_comes_back_as_its_class(code, kind):
    error = error_of({"code": code, "message": "no", "next_step": "go on"})
    assert type(error) is kind
    assert (error.message, error.next_step) == ("no", "go on")


def test_problems_of_a_document_come_back_as_such():
    error = error_of({"code": "E102", "message": "a: b\nc: d", "next_step": ""})
    assert isinstance(error, InvalidDocument)
    assert (error.message, error.exit_code) == ("a: b\nc: d", 3)


def test_an_unknown_error_is_still_an_error():
    assert type(error_of({"code": "E999", "message": "x"})) is MeshError
    assert error_of({}).message == "the agent gave no reason"


@pytest.mark.parametrize("address", ["unix:///run/a.sock", "/run/a.sock"])
def test_both_spellings_of_a_socket_are_taken(address):
    assert str(socket_path(address)) == "/run/a.sock"


@pytest.mark.parametrize("address", ["http://127.0.0.1:80", "agent.sock", "unix://agent.sock", ""])
def test_what_is_no_socket_is_refused(address):
    with pytest.raises(UsageProblem, match="not the address of an agent"):
        socket_path(address)


async def test_nobody_there_is_unreachable_with_the_way_to_start_one(client, short_dir):
    with pytest.raises(AgentUnreachable, match="no agent answers") as caught:
        await client.status()
    assert "meshagent agent" in caught.value.next_step
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(short_dir / "agent.sock"))
    with pytest.raises(AgentUnreachable, match="no agent answers"):
        await client.status()


async def test_a_path_that_no_socket_can_have_says_why():
    with pytest.raises(AgentUnreachable, match=r"\(AF_UNIX path too long\)"):
        await AgentClient("/" + "x" * 200).status()


async def test_a_socket_of_others_says_whose_it_is_and_the_way_in(client, short_dir, monkeypatch):
    async def refused(_):
        raise PermissionError(13, "Permission denied")

    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(short_dir / "agent.sock"))
    (short_dir / "agent.sock").chmod(0o660)
    monkeypatch.setattr(asyncio, "open_unix_connection", refused)
    with pytest.raises(AgentUnreachable, match=r"may not use .*/agent.sock \(of \w+, group \w+, mode 0660\)") as caught:
        await client.status()
    assert "group" in caught.value.next_step
    (short_dir / "agent.sock").unlink()
    with pytest.raises(AgentUnreachable, match=r"may not use .*/agent.sock$") as caught:
        await client.status()
    assert "usermod -aG meshagent" in caught.value.next_step


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "ended before it had answered"),
        (b"HTTP/1.0 200 OK\r\nContent-Le", "ended before it had answered"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 10\r\n\r\n{}", "ended before it had answered"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "is not a meshagent"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n<html>", "is not a meshagent"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n[]", "is not a meshagent"),
        (b"HTTP/1.1 twohundred\r\n\r\n{}", "is not a meshagent"),
    ],
)
async def test_a_wrong_answer_is_unreachable_not_a_crash(client, raw, answer, words):
    raw.append(answer)
    with pytest.raises(AgentUnreachable, match=words):
        await client.status()


async def test_an_agent_that_hangs_is_given_up(short_dir):
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(short_dir / "agent.sock"))
        silent.listen()
        with pytest.raises(AgentUnreachable, match=r"did not answer within 0.02 s"):
            await AgentClient(str(short_dir / "agent.sock"), timeout=0.02).status()


async def test_odd_names_cannot_leave_their_place_in_the_path(client, agent):
    agent.answer("DELETE", "/v1/services/..%2F..%3Fx", {"name": "x", "id": "x", "drained_ms": 1})
    await client.down("../..?x", "a&b=c")
    assert agent.asked[0][1:3] == ("/v1/services/..%2F..%3Fx", {"id": ["a&b=c"]})


async def test_a_definition_is_sent_as_it_was_written(client, agent):
    agent.answer("PUT", "/v1/services", {"name": "web"})
    definition = ServiceDefinition.model_validate({"name": "web", "port": 80, "checks": [{"ttl": "1m"}]})
    await client.up(definition, 1.5)
    _, _, query, body = agent.asked[0]
    assert query == {"wait": ["1.5"]}
    assert ServiceDefinition.model_validate(body) == definition
