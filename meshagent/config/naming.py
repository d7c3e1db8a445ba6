"""Where this host answers DNS, and for which zone."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Annotated

from pydantic import AfterValidator, Field

from meshagent.model.names import check_service_name

NOWHERE = "none"
_ADDRESS = re.compile(r"(?:\[([0-9a-f:]+)\]|([0-9.]+)):([0-9]{1,5})")
_TAKEN = ("arpa", "local", "localhost")


def dns_address(text: str) -> tuple[str, int] | None:
    """Host and port of `127.0.0.1:15053` or `[::1]:15053`, None of `none`. Raises ValueError.

    No other addresses: which services a host calls is told to that host alone.
    """
    if text == NOWHERE:
        return None
    match = _ADDRESS.fullmatch(text)
    try:
        host = ip_address(match[1] or match[2]) if match else None
    except ValueError:
        host = None
    if not match or host is None or not host.is_loopback or not 0 < int(match[3]) <= 65535:
        raise ValueError("must be a loopback address and a port, such as 127.0.0.1:15053, or none")
    return str(host), int(match[3])


def _check_address(text: str) -> str:
    dns_address(text)
    return text


def _check_zone(text: str) -> str:
    try:
        labels = [check_service_name(label) for label in text.split(".")]
    except ValueError:
        raise ValueError("must be a name such as mesh or mesh.internal, in lower case") from None
    if labels[-1] in _TAKEN:
        raise ValueError(f"must not end in {labels[-1]}, which has another meaning (RFC 6761, 6762)")
    return text


DnsAddress = Annotated[str, AfterValidator(_check_address)]
DnsZone = Annotated[str, Field(max_length=100), AfterValidator(_check_zone)]
