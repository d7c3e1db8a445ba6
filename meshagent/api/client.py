"""A client of the agent's local API.

HTTP/1.0 over asyncio's own Unix socket: the agent then answers with the whole body and ends the connection, so there is
nothing here to keep alive or to put together from chunks, a command starts without an HTTP library, and Ctrl-C ends a
call that waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import json
import os
import pwd
import stat
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from meshagent.errors import AgentUnreachable, InvalidDocument, MeshError, Problem, UsageProblem
from meshagent.model.service import ServiceDefinition

Data = dict[str, Any]

_SCHEME = "unix://"
_LINE_BYTES = 1 << 20  # at most, of a request told live
_TIMEOUT = 10.0  # seconds, for what the agent answers at once
_DRAIN_TIMEOUT = 120.0  # seconds, for what ends only when the last request under way has
_GROUP = "meshagent"  # the agent gives its socket to this group where there is one


class AgentClient:
    """Calls the agent that listens at `address` (`unix:///run/meshagent/agent.sock`, or the path alone).

    Every call raises AgentUnreachable when no agent answers within `timeout` seconds, and the error that the agent
    answered with, as its class. Raises UsageProblem for an address that is not a socket's.
    """

    def __init__(self, address: str, timeout: float = _TIMEOUT) -> None:
        self.path = socket_path(address)
        self._timeout = timeout

    async def status(self) -> Data:
        """What the agent says of itself."""
        return await self._data("GET", "/v1/status")

    async def services(self) -> list[Data]:
        """The services that run on this host."""
        rows: list[Data] = (await self._data("GET", "/v1/services"))["services"]
        return rows

    async def up(self, definition: ServiceDefinition, wait: float) -> Data:
        """Register a service; its row, once its listeners are up (at most `wait` seconds). PortInUse, EnvoyFailed."""
        body = definition.model_dump_json(exclude_defaults=True).encode()
        return await self._data("PUT", "/v1/services", {"wait": f"{wait:g}"}, body, self._timeout + wait)

    async def leave(self) -> None:
        """Drain all services of this host and take them out of the mesh, until an agent starts anew."""
        await self._data("POST", "/v1/leave", timeout=_DRAIN_TIMEOUT)

    async def down(self, name: str, instance: str | None = None) -> Data:
        """Drain and deregister: name, id and how long it took (`drained_ms`). NotFound."""
        return await self._data("DELETE", _service(name), _only(id=instance), timeout=_DRAIN_TIMEOUT)

    async def feed_ttl(self, name: str, status: str, output: str = "", instance: str | None = None) -> Data:
        """Tell a service's ttl check that it is `passing` or `failing`. NotFound."""
        body = json.dumps({"status": status, "output": output}).encode()
        return await self._data("PUT", f"{_service(name)}/ttl", _only(id=instance), body)

    async def proxy_status(self) -> Data:
        """Envoy's state and what it has applied, by type of resource."""
        return await self._data("GET", "/v1/proxy/status")

    async def proxy_config(self) -> Data:
        """Envoy's configuration as it runs."""
        return await self._data("GET", "/v1/proxy/config")

    async def proxy_stats(self, pattern: str = "") -> dict[str, float]:
        """Envoy's counters and gauges whose name matches the regular expression."""
        stats: dict[str, float] = (await self._data("GET", "/v1/proxy/stats", _only(filter=pattern or None)))["stats"]
        return stats

    async def traffic(self) -> Data:
        """What this host's Envoy has counted of who calls whom (`api/traffic.py`)."""
        return await self._data("GET", "/v1/traffic")

    async def requests(self, **wanted: str) -> Data:
        """What the access log has, newest first (`requests`), by the query of `api/requests.py`."""
        return await self._data("GET", "/v1/requests", _only(**wanted))

    @contextlib.asynccontextmanager
    async def tap(self, **wanted: str) -> AsyncIterator[AsyncIterator[Data]]:
        """Live requests by the query of `api/tap.py`, from the moment on at which the block is entered.

        Lines of the answer; they end when the agent does. UsageProblem, NotFound, EnvoyFailed.
        """
        target = f"/v1/tap?{urlencode(_only(**wanted))}"
        try:
            reader, writer = await asyncio.open_unix_connection(str(self.path), limit=_LINE_BYTES)
        except OSError as error:
            raise self._unreachable(error) from None
        try:
            yield await self._lines(reader, writer, target)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _lines(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str
    ) -> AsyncIterator[Data]:
        """Ask, and give the lines of the body once the answer has begun."""
        try:
            async with asyncio.timeout(self._timeout):
                writer.write(f"GET {target} HTTP/1.0\r\nHost: agent\r\n\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
                status = int(head.split(b" ", 2)[1])
                if status != 200:
                    self._answer(*_parsed(head + await reader.read()))
        except TimeoutError:
            raise AgentUnreachable(
                f"the agent on {self.path} did not answer within {self._timeout:g} s", next_step="look at its log"
            ) from None
        except (OSError, EOFError) as error:
            raise self._unreachable(error) from None
        return _json_lines(reader)

    async def call_path(self, source: str, destination: str) -> Data:
        """How far a call gets on this host, by `api/path.py`."""
        return await self._data("GET", "/v1/path", {"source": source, "destination": destination})

    async def _data(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: bytes = b"",
        timeout: float | None = None,
    ) -> Data:
        seconds = self._timeout if timeout is None else timeout
        target = f"{path}?{urlencode(query)}" if query else path
        try:
            async with asyncio.timeout(seconds):
                status, answer = await self._exchange(method, target, body)
        except TimeoutError:
            raise AgentUnreachable(
                f"the agent on {self.path} did not answer within {seconds:g} s", next_step="look at its log"
            ) from None
        except (OSError, EOFError) as error:
            raise self._unreachable(error) from None
        return self._answer(status, answer)

    async def _exchange(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        try:
            head = f"{method} {target} HTTP/1.0\r\nHost: agent\r\nContent-Type: application/json\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            await writer.drain()
            return _parsed(await reader.read())
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _answer(self, status: int, body: bytes) -> Data:
        try:
            data = json.loads(body)
        except ValueError:
            data = None
        if not isinstance(data, dict):
            raise AgentUnreachable(f"what listens on {self.path} is not a meshagent", next_step="check --api")
        if not 200 <= status < 300:
            raise error_of(data)
        return data

    def _unreachable(self, error: OSError | EOFError) -> AgentUnreachable:
        if isinstance(error, EOFError | ConnectionResetError | BrokenPipeError):
            return AgentUnreachable(
                f"the agent on {self.path} ended before it had answered", next_step="look at its log, then try again"
            )
        if isinstance(error, PermissionError):
            return AgentUnreachable(
                f"{_user()} may not use {self.path}{_owner(self.path)}", next_step=_way_in(self.path)
            )
        why = "" if isinstance(error, FileNotFoundError | ConnectionRefusedError) else f" ({error.strerror or error})"
        return AgentUnreachable(
            f"no agent answers on {self.path}{why}",
            next_step="start one: meshagent agent; or name its socket with --api or MESHAGENT_API",
        )


def socket_path(address: str) -> Path:
    """The path in `unix:///path` or `/path`. Raises UsageProblem for anything else."""
    path = address.removeprefix(_SCHEME)
    if not path.startswith("/"):
        raise UsageProblem(
            f"not the address of an agent: {address}", next_step="write unix:///run/meshagent/agent.sock"
        )
    return Path(path)


def error_of(data: Mapping[str, Any]) -> MeshError:
    """The error that an agent answered with, as the class that its code names."""
    message, next_step = str(data.get("message", "the agent gave no reason")), str(data.get("next_step", ""))
    kind = {each.code: each for each in _errors(MeshError)}.get(str(data.get("code")), MeshError)
    if kind is InvalidDocument:
        return InvalidDocument((Problem("", 0, "", message),), next_step=next_step)
    return kind(message, next_step=next_step)


def _errors(kind: type[MeshError]) -> Iterator[type[MeshError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _errors(child)


def _parsed(answer: bytes) -> tuple[int, bytes]:
    """(status, body) of a whole HTTP answer; raises EOFError when a part of it is missing."""
    head, separator, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    if not answer or (not separator and version.startswith("HTTP/")):
        raise EOFError
    if not version.startswith("HTTP/") or not rest[:3].isdigit():
        return 0, b""
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = headers.get("content-length", "")
    if length.isdecimal() and len(body) < int(length):
        raise EOFError
    return int(rest[:3]), body


async def _json_lines(reader: asyncio.StreamReader) -> AsyncIterator[Data]:
    with contextlib.suppress(OSError):
        async for line in reader:
            yield json.loads(line)


def _only(**query: str | None) -> dict[str, str]:
    return {name: value for name, value in query.items() if value is not None}


def _service(name: str) -> str:
    return f"/v1/services/{quote(name, safe='')}"


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"user {os.geteuid()}"


def _owner(path: Path) -> str:
    """` (of root, group meshagent, mode 0660)`, or nothing where even that may not be looked at."""
    try:
        found = path.stat()
        return f" (of {path.owner()}, group {path.group()}, mode {stat.S_IMODE(found.st_mode):04o})"
    except (OSError, KeyError):
        return ""


def _way_in(path: Path) -> str:
    try:
        group = path.group()
    except (OSError, KeyError):
        group = _GROUP
    if group == "root":
        return (
            f"sudo meshagent ...; or make a group {_GROUP} and restart the agent, which then shares its socket with it"
        )
    if _user() in _members(group):
        return f"you are in the group {group}, but this session is older than that: log in again"
    return f"sudo usermod -aG {group} {_user()}, then log in again; or use sudo"


def _members(group: str) -> list[str]:
    try:
        return grp.getgrnam(group).gr_mem
    except KeyError:
        return []
