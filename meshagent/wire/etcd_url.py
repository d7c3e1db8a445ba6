"""Where an etcd is, as its URL says: `etcd://host:port[,host:port][?tls=true]`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl

from meshagent.errors import UsageProblem

PORT = 2379
_FORM = (
    "Write etcd://host:port, several members as host:port,host:port, and ?tls=true for TLS without files of its own."
)
_HOST = re.compile(r"(?P<host>\[[0-9a-fA-F:.%]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")
_HIGHEST_PORT = 65_535


@dataclass(frozen=True, slots=True)
class Address:
    """`members` are `host:port`, in the order of preference."""

    members: tuple[str, ...]
    tls: bool = False


def parse_url(url: str, *, tls: bool = False) -> Address:
    """What the URL says; `tls`: the configuration asks for TLS, whatever the URL says. Raises UsageProblem."""
    scheme, _, rest = url.partition("://")
    place, _, query = rest.partition("?")
    if scheme != "etcd" or "#" in rest:
        raise _refused(url, "it does not begin with etcd://" if scheme != "etcd" else "'#' means nothing in it")
    if "@" in place:
        # The whole URL is not repeated: it holds a secret.
        raise UsageProblem(
            "The URL of an etcd store holds no user or password.",
            next_step="Set store_username, and put the password into store_password_file.",
        )
    said = parse_qsl(query, keep_blank_values=True)
    if said not in ([], [("tls", "true")], [("tls", "false")]):
        raise _refused(url, "only tls=true or tls=false may follow the question mark")
    members = tuple(_member(url, each) for each in place.removesuffix("/").split(","))
    return Address(members=tuple(dict.fromkeys(members)), tls=tls or said == [("tls", "true")])


def _member(url: str, text: str) -> str:
    match = _HOST.fullmatch(text)
    if not match or not 0 < int(match["port"] or PORT) <= _HIGHEST_PORT:
        raise _refused(url, f"{text!r} is not host:port")
    return f"{match['host']}:{match['port'] or PORT}"


def _refused(url: str, reason: str) -> UsageProblem:
    return UsageProblem(f"Not the URL of an etcd store: {url}: {reason}.", next_step=_FORM)
