"""The last-known-good World on disk, so that agent and Envoy come back while the store is away.

A file readable by nobody else, with a checksum over its content: damaged or half written, it is ignored and fetched anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from meshagent.errors import MeshError, NotFound
from meshagent.model.external import External
from meshagent.model.gateway import Gateway
from meshagent.model.intention import Intention
from meshagent.model.kinds import Document
from meshagent.model.mesh import Mesh
from meshagent.model.names import Model
from meshagent.model.rollout import Progress, Rollout
from meshagent.model.route import Route
from meshagent.model.service import Instance, Service
from meshagent.model.view import Chain, ProxyView
from meshagent.model.world import Stated, World
from meshagent.private import read_private, write_private
from meshagent.state.records import BundleRecord, OriginRecord, dump

_LIMIT = 256 << 20  # bytes


class _Statement(Model):
    document: dict[str, Any]
    origins: dict[str, OriginRecord] = {}
    broken: str = ""


class _Cuts(Model):
    service: str
    instance: str
    chains: dict[str, int]
    default: int


class _Snapshot(Model):
    v: int = Field(default=1, ge=1, le=1)
    revision: int
    mesh: Mesh
    intentions: list[_Statement]
    services: list[_Statement]
    routes: list[_Statement] = []
    externals: list[_Statement] = []
    gateways: list[_Statement] = []
    rollouts: list[_Statement] = []
    progress: dict[str, Progress] = {}
    instances: list[Instance]
    bundle: BundleRecord
    cuts: list[_Cuts]


Cuts = Mapping[tuple[str, str], tuple[Mapping[str, int], int]]  # by service and instance: by source, default
_OUTSIDE = "external/"  # before a name outside the mesh, in place of an instance: none is called so


class UnusableSnapshot(Exception):
    """The file is damaged, unsafe or of another version. Its message says which."""


def save_snapshot(path: Path, world: World, view: ProxyView) -> None:
    """Write the file whole or not at all. Raises MeshError when it cannot be written."""
    body = _encode(world, view)
    write_private(path, json.dumps({"checksum": _checksum(body), "body": body.decode()}).encode())


def load_snapshot(path: Path) -> tuple[World, Cuts] | None:
    """What was saved; None where nothing was. Raises UnusableSnapshot."""
    try:
        data = json.loads(read_private(path, _LIMIT))
        body = data["body"].encode()
        if data["checksum"] != _checksum(body):
            raise UnusableSnapshot("its checksum does not fit its content")
        return _decode(_Snapshot.model_validate_json(body))
    except NotFound:
        return None
    except (MeshError, ValidationError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnusableSnapshot(str(error)) from None


def with_cuts(view: ProxyView, cuts: Cuts) -> ProxyView:
    """The view with the counts of cuts that its connections were made under."""
    inbounds = []
    for inbound in view.inbounds:
        chains, default = cuts.get((inbound.service, inbound.instance), ({}, 0))
        kept = tuple(Chain(chain.source, chains.get(chain.source, 0)) for chain in inbound.chains)
        inbounds.append(replace(inbound, chains=kept, default_cut=default))
    outside = ((each, cuts.get((each.source, _OUTSIDE + each.upstream), ({}, 0))) for each in view.egresses)
    egresses = tuple(replace(egress, cut=cut) for egress, (_, cut) in outside)
    return replace(view, inbounds=tuple(inbounds), egresses=egresses)


def _encode(world: World, view: ProxyView) -> bytes:
    cuts = [
        _Cuts(
            service=inbound.service,
            instance=inbound.instance,
            chains={chain.source: chain.cut for chain in inbound.chains},
            default=inbound.default_cut,
        )
        for inbound in view.inbounds
    ]
    cuts += [
        _Cuts(service=egress.source, instance=_OUTSIDE + egress.upstream, chains={}, default=egress.cut)
        for egress in view.egresses
    ]
    snapshot = _Snapshot(
        revision=world.revision,
        mesh=world.mesh,
        intentions=[_statement(stated) for _, stated in sorted(world.intentions.items())],
        services=[_statement(stated) for _, stated in sorted(world.services.items())],
        routes=[_statement(stated) for _, stated in sorted(world.routes.items())],
        externals=[_statement(stated) for _, stated in sorted(world.externals.items())],
        gateways=[_statement(stated) for _, stated in sorted(world.gateways.items())],
        rollouts=[_statement(stated) for _, stated in sorted(world.rollouts.items())],
        progress=dict(world.progress),
        instances=[instance for _, found in sorted(world.instances.items()) for instance in found],
        bundle=BundleRecord.of(world.bundle),
        cuts=cuts,
    )
    return snapshot.model_dump_json().encode()


def _decode(snapshot: _Snapshot) -> tuple[World, Cuts]:
    instances: dict[str, tuple[Instance, ...]] = {}
    for instance in snapshot.instances:
        instances[instance.service] = (*instances.get(instance.service, ()), instance)
    intentions = [(Intention.model_validate(row.document), row) for row in snapshot.intentions]
    services = [(Service.model_validate(row.document), row) for row in snapshot.services]
    routes = [(Route.model_validate(row.document), row) for row in snapshot.routes]
    externals = [(External.model_validate(row.document), row) for row in snapshot.externals]
    gateways = [(Gateway.model_validate(row.document), row) for row in snapshot.gateways]
    rollouts = [(Rollout.model_validate(row.document), row) for row in snapshot.rollouts]
    world = World(
        revision=snapshot.revision,
        mesh=snapshot.mesh,
        intentions={document.name: _stated(document, row) for document, row in intentions},
        services={document.name: _stated(document, row) for document, row in services},
        instances=instances,
        bundle=snapshot.bundle.bundle(),
        routes={document.name: _stated(document, row) for document, row in routes},
        externals={document.name: _stated(document, row) for document, row in externals},
        gateways={document.name: _stated(document, row) for document, row in gateways},
        rollouts={document.name: _stated(document, row) for document, row in rollouts},
        progress=snapshot.progress,
    )
    return world, {(cut.service, cut.instance): (cut.chains, cut.default) for cut in snapshot.cuts}


def _statement(stated: Stated[Document]) -> _Statement:
    origins = {part: OriginRecord.of(origin) for part, origin in stated.origins.items()}
    return _Statement(document=dump(stated.thing), origins=origins, broken=stated.broken)


def _stated(document: Any, row: _Statement) -> Stated[Any]:
    return Stated(document, {part: origin.origin() for part, origin in row.origins.items()}, row.broken)


def _checksum(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=16).hexdigest()
