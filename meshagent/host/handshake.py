"""One mutual TLS handshake with an instance, as the caller's proxy makes it: who answers, and whether it takes ours."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

_SECONDS = 2.0
# In TLS 1.3 a client has finished before the server judges its certificate: what the server thinks of it comes after that.
_VERDICT_SECONDS = 0.3
_EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED
_NO_ANSWER = f"no answer within {_SECONDS:g} s"
Outcome = tuple[str, str]  # the code of model/reasons.py, "" where all is well; and words


async def handshake(
    address: str, port: int, server_name: str, own: Path, roots: bytes, ids: Collection[str], alpn: str = ""
) -> Outcome:
    """Connect, show the certificate in `own` (chain and key, PEM), and check the other side's against `roots` and `ids`.

    Never raises for what the network or the other side does.
    """
    try:
        async with asyncio.timeout(_SECONDS):
            return await _shake(address, port, server_name, _context(own, roots, alpn), ids)
    except TimeoutError:
        return "connect", _NO_ANSWER
    except ssl.SSLCertVerificationError as error:
        code = "tls-expired" if error.verify_code == _EXPIRED else "tls-unknown-root"
        return code, f"its certificate is not believed: {error.verify_message}"
    except ssl.SSLError as error:
        return _alert(error)
    except ConnectionResetError:
        return "tls", "it ended the connection within the handshake: it may speak no TLS"
    except OSError as error:
        return "connect", _words(error)


async def connected(address: str, port: int) -> str:
    """Why nobody can connect there; empty where one can."""
    try:
        async with asyncio.timeout(_SECONDS):
            _, writer = await asyncio.open_connection(address, port)
        writer.transport.abort()
    except TimeoutError:
        return _NO_ANSWER
    except OSError as error:
        return _words(error)
    return ""


def _words(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)


def _context(own: Path, roots: bytes, alpn: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # identities are SPIFFE IDs, which are looked at below
    context.load_verify_locations(cadata=roots.decode("ascii"))
    context.load_cert_chain(own)
    if alpn:
        context.set_alpn_protocols([alpn])
    return context


async def _shake(address: str, port: int, server_name: str, context: ssl.SSLContext, ids: Collection[str]) -> Outcome:
    reader, writer = await asyncio.open_connection(address, port, ssl=context, server_hostname=server_name)
    try:
        shown = writer.get_extra_info("ssl_object").getpeercert()
        names = [value for kind, value in shown.get("subjectAltName", ()) if kind == "URI"]
        if not set(names) & set(ids):
            return "tls-identity", f"it is {', '.join(names) or 'nobody'}, not {' or '.join(sorted(ids))}"
        with suppress(TimeoutError):
            async with asyncio.timeout(_VERDICT_SECONDS):
                await reader.read(1)
        return "", f"it is {names[0]}"
    finally:
        writer.transport.abort()


def _alert(error: ssl.SSLError) -> Outcome:
    """What the other side said of us, or that it does not speak TLS."""
    said = (error.reason or str(error)).replace("_", " ").lower()
    if "expired" in said:
        return "tls-expired", f"it refuses the certificate of this side: {said}"
    if "unknown ca" in said:
        return "tls-unknown-root", f"it refuses the certificate of this side: {said}"
    return "tls", f"no TLS with it: {said}"
