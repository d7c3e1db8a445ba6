"""An app that calls: one HTTP connection to a local upstream port, kept open."""

from __future__ import annotations

import http.client
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; header names are in lower case. Status 0: nothing did, and `body` says why."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""


class _Connection(http.client.HTTPConnection):
    opened = 0

    def connect(self) -> None:
        self.opened += 1
        super().connect()


class Caller:
    """Calls 127.0.0.1 on one connection, and makes another only when the peer closed it: `opened` counts them."""

    def __init__(self, port: int) -> None:
        self._connection = _Connection("127.0.0.1", port, timeout=_TIMEOUT_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    @property
    def opened(self) -> int:
        """How many connections it took so far."""
        return self._connection.opened

    def ask(self, path: str = "/", method: str = "GET") -> Answer:
        """One request. Never raises for what the peer does."""
        try:
            self._connection.request(method, path)
            response = self._connection.getresponse()
            headers = {key.lower(): value for key, value in response.getheaders()}
            return Answer(response.status, headers, response.read().decode(errors="replace"))
        except (OSError, http.client.HTTPException) as error:
            with suppress(OSError):
                self._connection.close()
            return Answer(0, body=str(error) or type(error).__name__)
