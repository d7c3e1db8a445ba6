"""Where a Consul is, as its URL says: `consul://host:port[,host:port][?dc=..&ns=..&partition=..&tls=true]`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl

from meshagent.errors import UsageProblem

PORT = 8500
TLS_PORT = 8501
_FORM = "Write consul://host:port, with ?dc=, ns=, partition= or tls=true where needed; several agents: host:port,host:port."
_HOST = re.compile(r"(?P<host>\[[0-9a-fA-F:.%]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")
_SCOPE = ("dc", "ns", "partition")
_HIGHEST_PORT = 65_535


@dataclass(frozen=True, slots=True)
class Address:
    """`agents` are `host:port`, in the order of preference; `scope` goes into every call (dc, ns, partition)."""

    agents: tuple[str, ...]
    scope: tuple[tuple[str, str], ...] = ()
    tls: bool = False

    @property
    def urls(self) -> tuple[str, ...]:
        """The agents' base URLs."""
        return tuple(f"{'https' if self.tls else 'http'}://{agent}" for agent in self.agents)


def parse_url(url: str, *, tls: bool = False) -> Address:
    """What the URL says; `tls`: the configuration asks for TLS, whatever the URL says. Raises UsageProblem."""
    scheme, _, rest = url.partition("://")
    place, _, query = rest.partition("?")
    if scheme != "consul" or "#" in rest:
        raise _refused(url, "it does not begin with consul://" if scheme != "consul" else "'#' means nothing in it")
    if "@" in place:
        # The whole URL is not repeated: it holds a secret.
        raise UsageProblem(
            "The URL of a Consul store holds no user, password or token.",
            next_step="Put the token into store_token_file.",
        )
    scope = _options(url, query)
    secure = tls or scope.pop("tls", "false") == "true"
    hosts = place.removesuffix("/").split(",")
    return Address(
        agents=tuple(_agent(url, host, TLS_PORT if secure else PORT) for host in hosts),
        scope=tuple(sorted(scope.items())),
        tls=secure,
    )


def _agent(url: str, text: str, port: int) -> str:
    match = _HOST.fullmatch(text)
    if not match or not 0 < int(match["port"] or port) <= _HIGHEST_PORT:
        raise _refused(url, f"{text!r} is not host:port")
    return f"{match['host']}:{match['port'] or port}"


def _options(url: str, query: str) -> dict[str, str]:
    """What stands behind the question mark, each once and known."""
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    for name, value in pairs:
        if name == "token":
            raise UsageProblem("A token does not belong into a URL.", next_step="Put it into store_token_file.")
        if name not in (*_SCOPE, "tls") or not value or options[name] != value:
            raise _refused(url, f"{name}={value} is unknown, empty or comes twice")
    if options.get("tls", "true") not in ("true", "false"):
        raise _refused(url, "tls is true or false")
    return options


def _refused(url: str, reason: str) -> UsageProblem:
    return UsageProblem(f"Not the URL of a Consul store: {url}: {reason}.", next_step=_FORM)
