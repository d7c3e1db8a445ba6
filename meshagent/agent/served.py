"""Whether Envoy serves the certificates that were issued: what it says itself is compared with what it was sent.

A certificate that is renewed and not served is the fault that nobody sees before the old one ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Never

import structlog

from meshagent.errors import EnvoyFailed
from meshagent.model.identity import Svid

_log = structlog.get_logger(__name__)
_SOON, _AGAIN = 1.0, 5.0  # seconds after a renewal, and between looks while something is amiss
_ALARM_AFTER = 10.0


class Served:
    """Asks Envoy after every renewal, until it serves all of them. `certs` is Envoy's `/certs`, which is not asked else."""

    def __init__(self, certs: Callable[[], Awaitable[Mapping[str, Any]]]) -> None:
        self._certs = certs
        self._svids: Mapping[str, Svid] = {}
        self._since: dict[str, float] = {}  # by service whose newest certificate was not seen served: when it came
        self._moved = asyncio.Event()
        self.unserved: frozenset[str] = frozenset()  # for longer than 10 s

    @property
    def problems(self) -> dict[str, str]:
        """What is not served, in words, by service."""
        return {
            service: f"Envoy serves another certificate than {self._svids[service].serial}, which was issued"
            for service in sorted(self.unserved & self._svids.keys())
        }

    def issued(self, svids: Mapping[str, Svid]) -> None:
        """Say what the newest certificates are."""
        now = asyncio.get_running_loop().time()
        for service, svid in svids.items():
            if self._svids.get(service) is not svid:
                self._since[service] = now
        self._svids = dict(svids)
        self._moved.set()

    async def run(self) -> Never:
        """Compare, for ever."""
        while True:
            await self._moved.wait()
            self._moved.clear()
            await asyncio.sleep(_SOON)
            while self._since:
                await self._look()
                await asyncio.sleep(_AGAIN if self._since else 0)

    async def _look(self) -> None:
        try:
            found = unserved(await self._certs(), self._svids)
        except EnvoyFailed:  # that it does not answer is told elsewhere
            return
        now = asyncio.get_running_loop().time()
        self._since = {service: since for service, since in self._since.items() if service in found}
        late = frozenset(service for service, since in self._since.items() if now - since >= _ALARM_AFTER)
        for service in sorted(late - self.unserved):
            _log.error("svid_not_served", service=service, serial=self._svids[service].serial)
        self.unserved = late


def unserved(certs: Mapping[str, Any], svids: Mapping[str, Svid]) -> frozenset[str]:
    """The services for which Envoy serves, anywhere, another certificate than these. Pure.

    `certs` is the answer of Envoy's `/certs`: one entry for each TLS context. A service that has no context is not
    served at all, and so not wrongly.
    """
    issued = {svid.spiffe_id: (service, int(svid.serial, 16)) for service, svid in svids.items()}
    wrong: set[str] = set()
    for entry in certs.get("certificates", ()):
        for leaf in entry.get("cert_chain", ())[:1]:
            for name in leaf.get("subject_alt_names", ()):
                service, serial = issued.get(name.get("uri", ""), ("", 0))
                if service and _number(leaf.get("serial_number", "")) != serial:
                    wrong.add(service)
    return frozenset(wrong)


def _number(serial: object) -> int:
    """A serial as Envoy writes it; -1 for what is none."""
    try:
        return int(str(serial), 16)
    except ValueError:
        return -1
