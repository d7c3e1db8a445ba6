"""Envoy's format strings for access logs, as they are written in the wild, and what of them is taken.

A string that Envoy refuses would take a whole listener with it, so every operator is checked here by the grammar of Envoy's
own parser, against those that Envoy 1.40 was seen to take (a test gives each to the real one). What reads files or the
environment of the proxy is not among them: whoever may write policy would else read keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import AfterValidator, Field

_LONGEST = 4096
_MOST_FIELDS = 64
_OPERATOR = re.compile(r"%%|%([A-Z0-9_]+)(?:\(([^)]*)\))?(?::([0-9]{1,6}))?%")
_KEYS = r"[A-Za-z0-9_.:/-]+(?::[A-Za-z0-9_./ -]+)*"
_HEADER = r":?[A-Za-z0-9_.-]{1,256}(?:\?:?[A-Za-z0-9_.-]{1,256})?"
_POINT = r"(?:DS_RX_BEG|DS_RX_END|US_TX_BEG|US_TX_END|US_RX_BEG|US_RX_END|DS_TX_BEG|DS_TX_END)"
_TIME = r"[A-Za-z0-9%:/., _+-]*"
# Of one side of a connection each; "{side}" is DOWNSTREAM or UPSTREAM.
_SIDED = (
    *("PEER_URI_SAN", "PEER_DNS_SAN", "PEER_IP_SAN", "PEER_SUBJECT", "PEER_ISSUER", "PEER_CERT"),
    *("LOCAL_URI_SAN", "LOCAL_DNS_SAN", "LOCAL_IP_SAN"),
    *("TLS_CIPHER", "TLS_VERSION", "TLS_SESSION_ID", "TRANSPORT_FAILURE_REASON"),
    *("LOCAL_ADDRESS", "LOCAL_ADDRESS_WITHOUT_PORT", "LOCAL_PORT"),
    *("REMOTE_ADDRESS", "REMOTE_ADDRESS_WITHOUT_PORT", "REMOTE_PORT"),
    *("WIRE_BYTES_RECEIVED", "WIRE_BYTES_SENT", "HEADER_BYTES_RECEIVED", "HEADER_BYTES_SENT"),
)
_ALONE = frozenset(
    (
        *(f"{side}_{name}" for side in ("DOWNSTREAM", "UPSTREAM") for name in _SIDED),
        "DOWNSTREAM_LOCAL_SUBJECT",
        *("DOWNSTREAM_PEER_FINGERPRINT_256", "DOWNSTREAM_PEER_FINGERPRINT_1", "DOWNSTREAM_PEER_SERIAL"),
        *("DOWNSTREAM_DIRECT_REMOTE_ADDRESS", "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT"),
        *("DOWNSTREAM_HANDSHAKE_DURATION", "ROUNDTRIP_DURATION"),
        *("REQUEST_DURATION", "REQUEST_TX_DURATION", "RESPONSE_DURATION", "RESPONSE_TX_DURATION", "DURATION"),
        *("BYTES_RECEIVED", "BYTES_SENT", "BYTES_RETRANSMITTED", "PACKETS_RETRANSMITTED"),
        *("PROTOCOL", "UPSTREAM_PROTOCOL", "RESPONSE_CODE", "RESPONSE_CODE_DETAILS", "CONNECTION_TERMINATION_DETAILS"),
        *("RESPONSE_FLAGS", "RESPONSE_FLAGS_LONG", "UPSTREAM_HOST", "UPSTREAM_CLUSTER", "UPSTREAM_CLUSTER_RAW"),
        *("UPSTREAM_CONNECTION_ID", "UPSTREAM_REQUEST_ATTEMPT_COUNT", "CONNECTION_ID", "REQUESTED_SERVER_NAME"),
        *("ROUTE_NAME", "VIRTUAL_CLUSTER_NAME", "HOSTNAME", "STREAM_ID", "UNIQUE_ID", "TRACE_ID", "ACCESS_LOG_TYPE"),
        *("REQUEST_HEADERS_BYTES", "RESPONSE_HEADERS_BYTES", "RESPONSE_TRAILERS_BYTES", "GRPC_STATUS_NUMBER"),
        *("LOCAL_REPLY_BODY", "FILTER_CHAIN_NAME", "TLS_JA3_FINGERPRINT"),
    )
)
# What stands in the parentheses, and whether they may be left out, and whether a length may follow.
_WITH: Mapping[str, tuple[str, bool, bool]] = {
    **dict.fromkeys(("REQ", "RESP", "TRAILER"), (_HEADER, False, True)),
    **dict.fromkeys(("DYNAMIC_METADATA", "CLUSTER_METADATA", "UPSTREAM_METADATA"), (_KEYS, False, True)),
    "METADATA": (rf"(?:DYNAMIC|CLUSTER|ROUTE|UPSTREAM_HOST|LISTENER|VIRTUAL_HOST):{_KEYS}", False, True),
    **dict.fromkeys(("FILTER_STATE", "UPSTREAM_FILTER_STATE"), (r"[A-Za-z0-9_.-]+(?::(?:PLAIN|TYPED))?", False, True)),
    "START_TIME": (_TIME, True, False),
    **dict.fromkeys(("DOWNSTREAM_PEER_CERT_V_START", "DOWNSTREAM_PEER_CERT_V_END"), (_TIME, True, False)),
    "GRPC_STATUS": ("(?:CAMEL_STRING|SNAKE_STRING|NUMBER)?", True, False),
    "PATH": ("(?:WQ|NQ)?(?::(?:ORIG|PATH|ORIG_OR_PATH))?", True, True),
    "QUERY_PARAM": (r"[A-Za-z0-9_.~-]+", False, True),
    "COMMON_DURATION": (rf"{_POINT}:{_POINT}:(?:ms|us|ns)", False, False),
}
_FORBIDDEN = {
    "ENVIRONMENT": "reads the proxy's environment",
    "FILE_CONTENT": "reads files of the host",
    "SECRET": "reads keys",
    "CEL": "is a language of its own, which cannot be checked here",
}


def operators() -> Iterator[str]:
    """One use of every operator that is taken, for the test that gives each to Envoy."""
    yield from (f"%{name}%" for name in sorted(_ALONE))
    yield from (
        "%REQ(:METHOD)%",
        "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH):20%",
        "%RESP(X-A?X-B)%",
        "%TRAILER(GRPC-STATUS):3%",
    )
    yield from ("%DYNAMIC_METADATA(a.b:c:d):9%", "%CLUSTER_METADATA(a:b)%", "%UPSTREAM_METADATA(envoy.lb:subset)%")
    yield from (f"%METADATA({kind}:a:b)%" for kind in ("DYNAMIC", "CLUSTER", "ROUTE", "UPSTREAM_HOST"))
    yield from ("%METADATA(LISTENER:a:b)%", "%METADATA(VIRTUAL_HOST:a:b)%", "%FILTER_STATE(a.b:PLAIN)%")
    yield from ("%UPSTREAM_FILTER_STATE(a:TYPED)%", "%START_TIME%", "%START_TIME(%Y/%m/%dT%H:%M:%S%z %s.%3f)%")
    yield from ("%DOWNSTREAM_PEER_CERT_V_START(%s)%", "%DOWNSTREAM_PEER_CERT_V_END%", "%GRPC_STATUS%")
    yield from ("%GRPC_STATUS(SNAKE_STRING)%", "%PATH(NQ)%", "%PATH(WQ:ORIG):10%", "%QUERY_PARAM(page):5%")
    yield from ("%COMMON_DURATION(DS_RX_BEG:US_TX_END:us)%", "%%")


def check_format(text: str) -> str:
    """The text when Envoy takes it as a format. Raises ValueError, which says what of it is wrong."""
    place = 0
    while (place := text.find("%", place)) >= 0:
        found = _OPERATOR.match(text, place)
        if not found:
            raise ValueError(
                f"has a % that begins no operator: {text[place : place + 30]!r} (write %% for one percent sign)"
            )
        _check_operator(found)
        place = found.end()
    return text


def _check_operator(found: re.Match[str]) -> None:
    name, inner, length = found.groups()
    if name is None:  # %%
        return
    if why := _FORBIDDEN.get(name):
        raise ValueError(f"uses {name}, which {why}")
    if name in _ALONE:
        if inner is not None or length is not None:
            raise ValueError(f"gives {name} more than Envoy takes: write %{name}%")
        return
    if name not in _WITH:
        raise ValueError(f"uses {name}, which is no operator of Envoy's that is taken here")
    grammar, bare, shortened = _WITH[name]
    if inner is None and not bare:
        raise ValueError(f"needs something in parentheses after {name}")
    if inner is not None and not re.fullmatch(grammar, inner):
        raise ValueError(f"asks {name} for ({inner}), which Envoy does not take")
    if length is not None and not shortened:
        raise ValueError(f"gives {name} a length, which Envoy does not take")


Text = Annotated[str, Field(min_length=1, max_length=_LONGEST), AfterValidator(check_format)]
Fields = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=64)], Text], Field(min_length=1, max_length=_MOST_FIELDS)
]
