"""Orders a certificate by ACME (RFC 8555, 7.4) and proves its names by http-01."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshagent.ca.acme_calls import AcmeCa, b64, said
from meshagent.model.certificate import Acme

_WHOLE_SECONDS = 300.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,200}")
Show = Callable[[Mapping[str, str]], Awaitable[None]]
"""Makes the gateway answer these at /.well-known/acme-challenge/TOKEN, before it returns."""


class Ordering:
    """One order, by the account of this key. `roots`: the file that the CA's address proves itself by, if no other is told."""

    def __init__(self, asked: Acme, account: ec.EllipticCurvePrivateKey, roots: str, show: Show) -> None:
        self._asked = asked
        self._show = show
        self._ca = AcmeCa(asked.directory, account, asked.ca_file or roots)

    @property
    def wish(self) -> timedelta:
        """How long the CA asked to be left alone, when it said no."""
        return self._ca.wish

    async def obtain(self, csr_pem: bytes) -> bytes:
        """The chain (PEM) for a CSR. Raises OrderRefused where the CA says no, AuthorityUnavailable where it says nothing."""
        try:
            async with asyncio.timeout(_WHOLE_SECONDS):
                return await self._obtained(csr_pem)
        except TimeoutError:
            raise self._ca.silent(f"has not issued it within {_WHOLE_SECONDS:g} s") from None
        finally:
            await self._ca.close()

    async def _obtained(self, csr_pem: bytes) -> bytes:
        ca = self._ca
        await ca.log_in(self._asked.email)
        names = [{"type": "dns", "value": name} for name in self._asked.hosts]
        made = await ca.post(ca.place("newOrder"), {"identifiers": names})
        order, place = made.body, ca.checked(made.place)
        await self._prove([ca.checked(url) for url in _list(order, "authorizations")])
        der = x509.load_pem_x509_csr(csr_pem).public_bytes(serialization.Encoding.DER)
        await ca.post(ca.checked(order.get("finalize")), {"csr": b64(der)})
        done = await self._settled(place, "pending", "ready", "processing")
        if done.get("status") != "valid":
            raise ca.refused(said(done.get("error")) or f"the order is {done.get('status')}")
        return (await ca.post(ca.checked(done.get("certificate")), None)).raw

    async def _prove(self, places: list[str]) -> None:
        """Answer for each name that the CA does not take for proven yet, and wait for its verdict."""
        asked: dict[str, tuple[str, str]] = {}  # by authorization: token, where the answer is announced
        for place in places:
            found = (await self._ca.post(place, None)).body
            if found.get("status") != "valid":
                asked[place] = self._question(found)
        if not asked:
            return
        thumbprint = self._ca.thumbprint
        try:
            await self._show({token: f"{token}.{thumbprint}" for token, _ in asked.values()})
            for _, answer in asked.values():
                await self._ca.post(answer, {})
            for place in asked:
                verdict = await self._settled(place, "pending")
                if verdict.get("status") != "valid":
                    raise self._ca.refused(_verdict(verdict))
        finally:
            await self._show({})

    def _question(self, authorization: Mapping[str, Any]) -> tuple[str, str]:
        """The token of http-01, and where to say that it is answered."""
        for each in _list(authorization, "challenges"):
            if isinstance(each, Mapping) and each.get("type") == "http-01" and _TOKEN.fullmatch(str(each.get("token"))):
                return str(each["token"]), self._ca.checked(each.get("url"))
        raise self._ca.refused(f"it does not ask for {_name(authorization)} by http-01")

    async def _settled(self, place: str, *waiting: str) -> Mapping[str, Any]:
        """Look again until the status is another one than these."""
        pause = _FIRST_PAUSE
        while True:
            reply = await self._ca.post(place, None)
            if reply.body.get("status") not in waiting:
                return reply.body
            await asyncio.sleep(max(pause, min(reply.pause.total_seconds(), _LONGEST_PAUSE)))
            pause = min(pause * 2, _LONGEST_PAUSE)


def _verdict(authorization: Mapping[str, Any]) -> str:
    """Why a name is not proven, in the CA's words."""
    told = [said(each.get("error")) for each in _list(authorization, "challenges") if isinstance(each, Mapping)]
    return f"{_name(authorization)}: {'; '.join(filter(None, told)) or authorization.get('status')}"


def _name(authorization: Mapping[str, Any]) -> str:
    found = authorization.get("identifier")
    return str(found.get("value", ""))[:253] if isinstance(found, Mapping) else ""


def _list(body: Mapping[str, Any], name: str) -> list[Any]:
    found = body.get(name)
    return found if isinstance(found, list) else []
