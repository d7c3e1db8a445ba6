"""A call that leaves the mesh, as data and as words: where it goes, and how the other side is known. Pure."""

from __future__ import annotations

from meshagent.cli.rules import Data, origin_data
from meshagent.model.external import External
from meshagent.model.world import Stated

_MODES = {
    "passthrough": "the app's own TLS, by its server name alone",
    "none": "unencrypted",
}


def external_data(stated: Stated[External] | None) -> Data | None:
    """Where a name outside the mesh is; None for a service."""
    if stated is None:
        return None
    external = stated.thing
    return {
        "hosts": list(external.hosts),
        "port": external.port,
        "tls": external.tls.mode,
        "names": list(external.proven_names) if external.tls.mode == "originate" else [],
        "roots": _roots(external),
        "origin": origin_data(stated.origin()),
    }


def external_words(stated: Stated[External] | None) -> str:
    """The same for a person; empty for a service."""
    if stated is None:
        return ""
    external = stated.thing
    how = (
        _MODES.get(external.tls.mode) or f"TLS by the proxy, to whoever proves {_names(external)} by {_roots(external)}"
    )
    hosts = ", ".join(f"[{host}]" if ":" in host else host for host in external.hosts)
    lines = [
        f"  leaves   the mesh to {hosts}, port {external.port}: {how}",
        "           judged by the caller's own proxy",
        f"           from {stated.origin()}",
    ]
    return "\n".join(lines)


def _names(external: External) -> str:
    return " or ".join(external.proven_names)


def _roots(external: External) -> str:
    if external.tls.mode != "originate":
        return ""
    return external.tls.ca_file or "the roots of its host"
