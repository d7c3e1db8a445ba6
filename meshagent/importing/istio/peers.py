"""PeerAuthentication -> `mtls` of a service (istio/api security/v1/peer_authentication.proto)."""

from __future__ import annotations

from collections.abc import Iterator

from meshagent.importing.fields import Fields
from meshagent.importing.ledger import Misfit
from meshagent.importing.names import Names
from meshagent.importing.parts import Part, Source

_MODES = ("STRICT", "PERMISSIVE", "DISABLE", "UNSET")


def peer_authentication(source: Source, names: Names) -> Iterator[Part]:
    """Raises Misfit for what Istio refuses. Without a selector it is for many services, of which none is named."""
    selector = source.body.sub("selector")
    mode = source.body.sub("mtls").one_of("mode", *_MODES) or "UNSET"
    _ports(source.body, bool(selector))
    if mode == "STRICT" and not selector:
        source.known("mTLS is strict here unless a service's document says otherwise")
        return
    if mode == "UNSET":
        return
    if mode == "DISABLE":
        source.body.tell("left out", "mTLS is never off here: permissive takes plain text beside it", "mtls")
        return
    if not selector:
        words = "say mtls: permissive in the document of each service that is meant; all others stay strict"
        source.body.tell("left out", words, "mtls")
        return
    name = selected(source, selector, names)
    if name is not None:
        yield Part("service", name, {"mtls": mode.lower()}, source.body)


def selected(source: Source, selector: Fields, names: Names) -> str | None:
    """The service that a selector means by its label app; None, and a note, where there is none."""
    labels = selector.table("matchLabels")
    app = labels.get("app") or labels.get("app.kubernetes.io/name")
    if app is None:
        selector.tell("left out", "names no service: a label app says which one is meant")
        return None
    if others := sorted(set(labels) - {"app", "app.kubernetes.io/name"}):
        selector.tell("changed", f"holds for all instances of {app}, whatever their {' and '.join(others)}")
    return names.service(selector, app, space=source.space)


def _ports(body: Fields, has_selector: bool) -> None:
    if "portLevelMtls" not in body:
        return
    ports = body.members("portLevelMtls")
    if not ports:
        raise Misfit(body.at("portLevelMtls"), "should have at least one port")
    if not has_selector:
        raise Misfit(body.at("portLevelMtls"), "requires selector")
    for port, settings in ports.items():
        if not port.isascii() or not port.isdigit():
            raise Misfit(settings.path, "type conversion error: a port is a number")
        if not 1 <= int(port[:9]) <= 65535 or len(port) > 5:
            raise Misfit(settings.path, "port must be between 1-65535")
        settings.one_of("mode", *_MODES)
        settings.tell("left out", "a service has one port here: mtls holds for all of it")
