"""Consul's config entries, in HCL, JSON, as CRD, and in an agent's own configuration: one form for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from meshagent.documents.compose import Path
from meshagent.documents.read import Reading, Tree
from meshagent.importing.consul.chain import Chain
from meshagent.importing.consul.defaults import mesh_entry, proxy_defaults, service_defaults
from meshagent.importing.consul.intentions import service_intentions
from meshagent.importing.consul.resolver import service_resolver
from meshagent.importing.consul.router import service_router, service_splitter
from meshagent.importing.fields import Fields, fold
from meshagent.importing.ledger import Ledger
from meshagent.importing.names import Names
from meshagent.importing.parts import Converter, Gathered, Part, Source, described

_CONVERTERS: Mapping[str, Converter] = {
    "service-defaults": service_defaults,
    "service-intentions": service_intentions,
    "proxy-defaults": proxy_defaults,
    "mesh": mesh_entry,
}
_KINDS = {fold(kind.replace("-", "")): kind for kind in (*_CONVERTERS,)} | {
    "servicerouter": "service-router",
    "servicesplitter": "service-splitter",
    "serviceresolver": "service-resolver",
}
_OUTSIDE = "traffic from and to the outside is a gateway's: register it as a service of its own (meshagent up)"
ELSEWHERE: Mapping[str, str] = {
    **dict.fromkeys(("ingress-gateway", "terminating-gateway", "api-gateway", "IngressGateway"), _OUTSIDE),
    "services": "an instance registers itself: meshagent up service.yaml on its host",
    "service": "an instance registers itself: meshagent up service.yaml on its host",
}
_META = ("Kind", "Name", "Meta", "Namespace", "Partition", "CreateIndex", "ModifyIndex", "Hash", "Status")


def consul_sources(reading: Reading, file: str) -> Iterator[Source]:
    """The entries of one file."""
    for tree in reading.trees:
        if "apiVersion" in tree.data:
            yield from _custom(tree, file)
        elif kind := _of(tree.data, "kind"):
            yield _entry(tree, file, (), tree.data, str(kind))
        else:
            yield from _configuration(tree, file)


def _custom(tree: Tree, file: str) -> Iterator[Source]:
    """A Kubernetes object: the kind is ServiceRouter, and the fields are in `spec`."""
    source = described(tree, file)
    source.kind = _KINDS.get(fold(source.kind), source.kind)
    source.ledger.thing = f"{source.kind} {source.name}"
    yield source


def _configuration(tree: Tree, file: str) -> Iterator[Source]:
    """An agent's configuration: the entries that it bootstraps, and its services."""
    for key, value in tree.data.items():
        entries = _of(value, "bootstrap") if fold(key) == "configentries" and isinstance(value, dict) else None
        if isinstance(value, dict) and entries is not None:
            path: Path = (key, next(name for name in value if fold(name) == "bootstrap"))
            listed = entries if isinstance(entries, list) else [entries]
            for index, entry in enumerate(listed):
                place = (*path, index) if (*path, index) in tree.lines else path
                if isinstance(entry, dict):
                    yield _entry(tree, file, place, entry, str(_of(entry, "kind") or "entry"))
        else:
            ledger = Ledger(file, str(key), tree.lines)
            whole = Fields(ledger, {key: value})
            yield Source(str(key), "", "default", whole, Fields(ledger, {}), {})


def _entry(tree: Tree, file: str, root: Path, data: Mapping[str, Any], kind: str) -> Source:
    name = str(_of(data, "name") or "")
    ledger = Ledger(file, f"{kind} {name}".strip(), tree.lines, root)
    whole = Fields(ledger, data)
    whole.ignore(*_META)
    space = str(_of(data, "namespace") or "default")
    return Source(_KINDS.get(fold(kind.replace("-", "")), kind), name, space, whole, whole, {})


def _of(data: Any, name: str) -> Any:
    """A field whatever its spelling."""
    return (
        next((value for key, value in data.items() if fold(str(key)) == name), None) if isinstance(data, dict) else None
    )


def consul_parts(sources: Sequence[Source], names: Names) -> list[Part]:
    """What all entries together give."""
    gathered, chain = Gathered(), Chain()
    chained: Mapping[str, Converter] = {
        "service-router": lambda source, named: service_router(source, named, chain),
        "service-splitter": lambda source, named: service_splitter(source, named, chain),
        "service-resolver": lambda source, named: service_resolver(source, named, chain),
    }
    for source in sources:
        converter = _CONVERTERS.get(source.kind) or chained.get(source.kind)
        if converter:
            gathered.take(source, names, converter)
        else:
            words = ELSEWHERE.get(source.kind, "there is nothing like it here")
            source.whole.drop(words, "not imported")
    return gathered.parts + chain.parts()
