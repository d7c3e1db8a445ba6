"""Names and scalar types. Each is checked once, at the edge, by the annotated types here."""

from __future__ import annotations

import ipaddress
import re
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

SERVICE_NAME_PATTERN = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
TRUST_DOMAIN_PATTERN = r"[a-z0-9]([a-z0-9.-]{0,126}[a-z0-9])?"
UNSPECIFIED = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - who listens on all addresses is reached here at these
ANY = "*"

_SERVICE_NAME = re.compile(SERVICE_NAME_PATTERN)
_TRUST_DOMAIN = re.compile(TRUST_DOMAIN_PATTERN)
OWN_FORM = "svc"
ID_FORM_PATTERN = r"(?:ns/default/dc/[a-z0-9_-]{1,63}/)?svc"  # ours, and Consul's
_SPIFFE = re.compile(rf"spiffe://({TRUST_DOMAIN_PATTERN})/({ID_FORM_PATTERN})/({SERVICE_NAME_PATTERN})")
_DURATION = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)(ms|s|m|h)")
_LONGEST_DURATION = 3.6e9  # seconds, a million hours: beyond, a float would not hold microseconds
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

Protocol = Literal["http", "http2", "grpc", "tcp"]
HTTP_PROTOCOLS: frozenset[str] = frozenset({"http", "http2", "grpc"})
DataPath = Literal["l7", "l4"]
"""How the proxies carry the calls of an HTTP service: as requests (l7), or as bytes that they do not look into (l4)."""


class Model(BaseModel):
    """Base of all documents and records: frozen, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def check_service_name(text: str) -> str:
    """The text when it is a service's name; raises ValueError (design, section 3)."""
    if not _SERVICE_NAME.fullmatch(text):
        raise ValueError(
            "must be 1 to 63 lower-case letters, digits or '-', beginning and ending with a letter or digit"
        )
    return text


def check_service_or_any(text: str) -> str:
    """A service's name or `*`; raises ValueError."""
    return text if text == ANY else check_service_name(text)


def check_trust_domain(text: str) -> str:
    """A SPIFFE trust domain in lower case; raises ValueError."""
    if not _TRUST_DOMAIN.fullmatch(text) or ".." in text:
        raise ValueError("must be a lower-case DNS-like name such as mesh.internal")
    return text


def check_address(text: str) -> str:
    """An IPv4 or IPv6 address that can be connected to; raises ValueError."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError("must be an IPv4 or IPv6 address") from None
    if address.is_multicast or address.is_unspecified or (address.is_reserved and not address.is_private):
        raise ValueError("must be an address that can be connected to")
    return str(address)


def check_bind_address(text: str) -> str:
    """An address that can be listened on: as `check_address`, or all of them (0.0.0.0, ::); raises ValueError."""
    return text if text in UNSPECIFIED else check_address(text)


def parse_duration(value: object) -> timedelta:
    """`500ms`, `5s`, `2m`, `1h` as a timedelta; raises ValueError on anything else."""
    if isinstance(value, timedelta):
        return value
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise ValueError("must be a duration such as 500ms, 5s, 2m or 1h")
    seconds = float(match[1]) * _UNIT_SECONDS[match[2]]
    if seconds > _LONGEST_DURATION:
        raise ValueError("must be a duration of at most 1000000h")
    return timedelta(seconds=seconds)


def format_duration(value: timedelta) -> str:
    """The shortest text that `parse_duration` reads back to the same value."""
    microseconds = value // timedelta(microseconds=1)
    for unit, size in (("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000)):
        if microseconds and microseconds % size == 0:
            return f"{microseconds // size}{unit}"
    whole, part = divmod(microseconds, 1000)
    return f"{whole}.{part:03d}".rstrip("0").rstrip(".") + "ms" if part else f"{whole}ms"


def spiffe_id(trust_domain: str, service: str, form: str = OWN_FORM) -> str:
    """The SPIFFE ID of a service: `spiffe://<trust domain>/<form>/<service>`; the form is `svc` but for Consul's CA."""
    return f"spiffe://{trust_domain}/{form}/{service}"


def parse_spiffe_id(uri: str) -> tuple[str, str] | None:
    """(trust domain, service) of our own form or of Consul's (`.../ns/default/dc/<dc>/svc/<service>`), else None."""
    match = _SPIFFE.fullmatch(uri)
    return (match[1], match[4]) if match else None


ServiceName = Annotated[str, AfterValidator(check_service_name)]
ServiceOrAny = Annotated[str, AfterValidator(check_service_or_any)]
TrustDomain = Annotated[str, AfterValidator(check_trust_domain)]
IdForm = Annotated[str, Field(pattern=rf"^{ID_FORM_PATTERN}$")]
Address = Annotated[str, AfterValidator(check_address)]
BindAddress = Annotated[str, AfterValidator(check_bind_address)]
Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(ms|s|m|h)$"}),
]
