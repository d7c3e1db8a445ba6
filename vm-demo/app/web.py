"""The guestbook's face: HTTP to people, gRPC to api (guestbook.proto). It knows nothing of the mesh.

    GET /          the entries           GET /watch   new entries as they come
    POST /         name=...&text=...     GET /api     which api answers, and whom it takes us for
    GET /health

What it sends to 127.0.0.1:9001 the sidecar of this host takes to api.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct

_TIMEOUT_SECONDS = 5.0


class Api:
    """A client of api.py."""

    def __init__(self, port: int) -> None:
        # A connection that was refused is tried again at once: the reader of a demo changes policy all the time.
        options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500)]
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", options)

    def call(self, name: str, value: dict[str, Any], metadata: list[tuple[str, str]]) -> dict[str, Any]:
        """One answer. Raises grpc.RpcError."""
        made = self._channel.unary_unary(f"/guestbook.Guestbook/{name}", _encode, Struct.FromString)
        return MessageToDict(made(value, timeout=_TIMEOUT_SECONDS, metadata=metadata))

    def watch(self, metadata: list[tuple[str, str]]) -> Any:
        """The stream of new entries; grpc.RpcError from it says why it ended."""
        return self._channel.unary_stream("/guestbook.Guestbook/Watch", _encode, Struct.FromString)(
            {}, metadata=metadata
        )


def _encode(value: dict[str, Any]) -> bytes:
    made = Struct()
    made.update(value)
    return made.SerializeToString()


def why(error: grpc.RpcError) -> dict[str, str]:
    """What went wrong with a call, as gRPC says it, and what the mesh added."""
    said = {"error": f"api: {error.code().name}", "reason": error.details() or ""}
    metadata = [*(error.initial_metadata() or ()), *(error.trailing_metadata() or ())]
    return said | {key: str(value) for key, value in metadata if key.startswith("x-mesh-")}


class Handler(BaseHTTPRequestHandler):
    """What answers people."""

    api: Api

    def do_GET(self) -> None:
        """The reading half."""
        path = urlsplit(self.path).path
        if path == "/":
            self._ask("List", {}, lambda answer: answer.get("entries", []))
        elif path == "/api":
            self._ask("About", {}, lambda answer: answer)
        elif path == "/watch":
            self._watch()
        elif path == "/health":
            self._tell(HTTPStatus.OK, {"status": "well"})
        else:
            self._tell(HTTPStatus.NOT_FOUND, {"error": "GET /, /api, /watch, /health; POST /"})

    def do_POST(self) -> None:
        """A new entry."""
        form = parse_qs(self.rfile.read(int(self.headers.get("content-length", 0))).decode())
        entry = {name: form.get(name, [""])[0][:500] for name in ("name", "text")}
        self._ask("Sign", entry, lambda answer: answer)

    def _ask(self, name: str, value: dict[str, Any], shown: Callable[[dict[str, Any]], object]) -> None:
        try:
            answer = self.api.call(name, value, self._metadata())
        except grpc.RpcError as error:
            self._tell(HTTPStatus.BAD_GATEWAY, why(error))
        else:
            self._tell(HTTPStatus.OK, shown(answer))

    def _watch(self) -> None:
        stream = self.api.watch(self._metadata())
        self.send_response(HTTPStatus.OK)
        self.end_headers()
        try:
            for entry in stream:
                self._line(MessageToDict(entry))
        except grpc.RpcError as error:
            self._line(why(error))
        finally:
            stream.cancel()

    def _metadata(self) -> list[tuple[str, str]]:
        """What of a request goes on to api, as applications pass on what traces and canaries need."""
        return [(key.lower(), value) for key, value in self.headers.items() if key.lower() == "x-canary"]

    def _line(self, value: object) -> None:
        self.wfile.write(json.dumps(value).encode() + b"\n")

    def _tell(self, status: HTTPStatus, value: object) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self._line(value)

    def log_message(self, *words: object) -> None:
        """Nothing: what the mesh says of a call is in the agent's log."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--api-port", type=int, default=9001)
    given = parser.parse_args()
    Handler.api = Api(given.api_port)
    ThreadingHTTPServer(("127.0.0.1", given.port), Handler).serve_forever()
