"""Store entries and listings -> World. Pure. Nothing that goes wrong there opens the mesh or takes down what works.

- Without a readable manifest, or with one that went back, nothing changes at all.
- A record that cannot be read leaves its last good version in force; where there is none, an intention record is replaced
  by one that denies everybody.
- Where policy is signed, a record that no trusted key signed for its place, or that is older than the signed index says, is
  one that cannot be read; and so is one that the index names and the store does not show.
- An absent record is not a deletion (a deletion is a record that says so): what a store hides is still enforced.
- Instances go when a listing no longer has them, but not while the manifest is missing: the store may have lost everything.
- A route that leads to further services counts once their instances are known; until then the one before it does, and so
  it is with gateways. A service that others fail over to is followed likewise, and the revision is not in force as a whole
  before it is known.
- An upstream that is a name outside the mesh counts as such once its intentions are followed, since this host judges them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from meshagent.catalog.base import Listing
from meshagent.model.external import External
from meshagent.model.gateway import Gateway
from meshagent.model.identity import TrustBundle
from meshagent.model.intention import Intention, IntentionSource
from meshagent.model.mesh import Mesh
from meshagent.model.route import Route
from meshagent.model.world import Stated, World
from meshagent.state.awaiting import Awaiting, Backups
from meshagent.state.index import Proof
from meshagent.state.keys import Interest, Keys
from meshagent.state.listings import usable
from meshagent.state.records import BundleRecord, Manifest, PolicyRecord, UnreadableRecord, decode, document_of
from meshagent.state.signing import Trust
from meshagent.store.base import Changes


class Fold:
    """Adds changes and listings up to a World. `here` is this host's address, "" when none is to be heeded."""

    def __init__(
        self,
        keys: Keys,
        interest: Interest,
        last_good: World | None = None,
        trust: Trust | None = None,
        here: str = "",
    ) -> None:
        self._keys = keys
        self._here = here
        self._proof = Proof(keys, trust or Trust())
        self._interest = interest
        self._values: dict[str, bytes] = {}
        self._listings: dict[str, Listing] = {}
        self._foreign: dict[str, list[str]] = {}  # instances without meshagent, by service
        self._world = last_good
        self._pending: set[str] = set()
        self._externals: dict[str, Stated[External]] = dict(last_good.externals) if last_good else {}  # the newest
        self._awaiting: Awaiting[Route] = Awaiting()
        self._opening: Awaiting[Gateway] = Awaiting()
        self._backups = Backups()
        self._early: set[str] = set()  # records that came before the manifest that makes them count
        self._problems: dict[str, str] = {}

    @property
    def problems(self) -> dict[str, str]:
        """What could not be used and what holds instead, by key or place."""
        listed = {place: text for each in self._listings.values() for place, text in each.problems.items()}
        return self._problems | listed | self._uncalled()

    @property
    def called(self) -> frozenset[str]:
        """The services that gateways here lead to: upstreams, as if a service had declared them."""
        return self._opening.named(self._world.gateways if self._world else {})

    @property
    def beyond(self) -> frozenset[str]:
        """The services, besides the upstreams, that routes and failovers lead to: what a host has to follow too."""
        routes = self._world.routes if self._world else {}
        called = self._interest.upstreams | self._awaiting.named(routes)
        backups = self._backups.of(self._world.services if self._world else {}, called)
        return (called | backups) - self._interest.upstreams

    @property
    def outside(self) -> frozenset[str]:
        """The upstreams that are names outside the mesh: this host follows their intentions too."""
        return self._interest.upstreams & self._externals.keys()

    @property
    def world(self) -> World | None:
        """The World in force; None before the first complete one."""
        return self._world

    def add(self, changes: Changes) -> World | None:
        """Take in changes and give the World that now counts (the same object when nothing did)."""
        self._pending |= self._take(changes)
        manifest = self._manifest()
        if manifest is None:
            return self._world
        before = self._world or World(revision=0, mesh=Mesh())
        touched, self._pending = self._pending, set()
        touched |= self._proof.touched(self._interest, touched, self._proof.follow(manifest))
        if manifest.revision != before.revision:
            touched |= self._early & self._values.keys()
            self._early.clear()
        news = touched - {self._keys.manifest} or manifest.revision != before.revision or self._relisted(before)
        if news or self._awaiting.ready(self._known) or self._opening.ready(self._known):
            self._world = self._next(before, manifest.revision, touched)
        return self._world

    def list(self, listing: Listing) -> World | None:
        """Take in a listing and give the World that now counts (the same object when nothing did)."""
        if listing.service in self._interest.reached:
            self._listings[listing.service] = usable(listing, self._here)
            self._foreign.pop(listing.service, None)
            if foreign := [f"{each.id} on {each.host}" for each in listing.instances if each.plain and not each.native]:
                self._foreign[listing.service] = foreign
        return self.add(Changes(0))

    def narrow(self, interest: Interest) -> None:
        """Forget what is no longer of interest; what is newly of interest comes with the next full change."""
        self._interest = interest
        self._values = {key: value for key, value in self._values.items() if interest.wants(self._keys, key)}
        self._problems = {key: text for key, text in self._problems.items() if interest.wants(self._keys, key)}
        self._awaiting.narrow(interest.upstreams)
        self._opening.narrow(interest.gateways)
        self._externals = {name: each for name, each in self._externals.items() if name in interest.upstreams}
        for service in set(self._listings) - interest.reached:
            del self._listings[service]
            self._foreign.pop(service, None)
        if world := self._world:
            wants = interest.judged | {"*"}
            known = interest.services | interest.reached
            self._world = replace(
                world,
                intentions={name: stated for name, stated in world.intentions.items() if name in wants},
                services={name: stated for name, stated in world.services.items() if name in known},
                instances={name: found for name, found in world.instances.items() if name in interest.reached},
                routes={name: stated for name, stated in world.routes.items() if name in interest.upstreams},
                externals={name: each for name, each in world.externals.items() if name in interest.upstreams},
                gateways={name: stated for name, stated in world.gateways.items() if name in interest.gateways},
                rollouts={name: stated for name, stated in world.rollouts.items() if name in known},
            )

    def _take(self, changes: Changes) -> set[str]:
        """Update the raw values; returns the keys that changed."""
        new = {entry.key: entry.value for entry in changes.entries if self._interest.wants(self._keys, entry.key)}
        if changes.full:
            touched = set(self._values) | set(new) | self._expected() | self._proof.wanted(self._interest)
            self._values = new
            return touched
        gone = {key for key in changes.deleted if self._values.pop(key, None) is not None}
        self._values.update(new)
        return gone | set(new)

    def _expected(self) -> set[str]:
        """Keys that the World in force came from: after a gap each is looked at again, also where it is gone."""
        if not self._world:
            return set()
        held: dict[str, Mapping[str, object]] = {
            "intention": self._world.intentions,
            "service": self._world.services,
            "route": self._world.routes,
            "external": self._externals,
            "gateway": self._world.gateways,
            "rollout": self._world.rollouts,
        }
        return {self._keys.document(kind, name) for kind, names in held.items() for name in names} | {self._keys.bundle}

    def _uncalled(self) -> dict[str, str]:
        """What others registered and nobody may call, for it speaks plain text alone."""
        world = self._world
        told = {name: each for name, each in self._foreign.items() if not (world and world.permissive(name))}
        return {
            f"catalog/{name}": f"{', '.join(foreign)}: registered without meshagent, so not called; register with it, "
            "or allow plain text by `mtls: permissive` in a service document"
            for name, foreign in told.items()
        }

    def _relisted(self, before: World) -> dict[str, Listing]:
        """The listings that differ from what is in force."""
        pairs = ((each, before.instances.get(each.service)) for each in self._listings.values())
        return {each.service: each for each, held in pairs if held is not each.instances and held != each.instances}

    def _manifest(self) -> Manifest | None:
        key = self._keys.manifest
        if key not in self._values:
            held = "the last good policy stays in force" if self._world else "there is no mesh in it yet"
            self._problems[key] = f"is missing from the store: {held}"
            return None
        try:
            manifest = decode(Manifest, self._values[key])
            self._proof.manifest(manifest)
        except UnreadableRecord as error:
            self._problems[key] = f"{error}: the last good policy stays in force"
            return None
        if self._world and manifest.revision < self._world.revision:
            back = f"from revision {self._world.revision} to {manifest.revision}"
            self._problems[key] = f"went back {back}: the newer policy stays in force"
            return None
        self._problems.pop(key, None)
        return manifest

    def _next(self, before: World, revision: int, touched: set[str]) -> World:
        by_kind: dict[str, dict[str, Any]] = {
            "intention": dict(before.intentions),
            "service": dict(before.services),
            "route": self._awaiting.over(before.routes),
            "external": self._externals,
            "gateway": self._opening.over(before.gateways),
            "rollout": dict(before.rollouts),
        }
        mesh, bundle = before.mesh, before.bundle
        for key in sorted(touched):
            if key == self._keys.bundle:
                bundle = self._bundle(bundle)
            elif document := self._keys.parse_document(key):
                kind, name = document
                if kind == "mesh":
                    stated = self._policy(key, kind, name, revision, Stated(mesh))
                    mesh = stated.thing if stated else mesh
                else:
                    held = by_kind[kind]
                    _replace(held, name, self._policy(key, kind, name, revision, held.get(name)))
        relisted = {name: each.instances for name, each in self._relisted(before).items()}
        instances = {**before.instances, **relisted} if relisted else before.instances
        routes = self._awaiting.settle(before.routes, by_kind["route"], self._known)
        services = by_kind["service"]
        backups = self._backups.of(services, self._interest.upstreams | self._awaiting.named(routes))
        outside = {name: each for name, each in self._externals.items() if name in self._interest.outside}
        gateways = self._opening.settle(before.gateways, by_kind["gateway"], self._known)
        awaits = bool(self._awaiting) or not all(map(self._known, backups)) or outside.keys() != self.outside
        return World(
            revision=revision,
            mesh=mesh,
            intentions=by_kind["intention"],
            services=services,
            instances=instances,
            bundle=bundle,
            routes=routes,
            awaits=awaits or bool(self._opening),
            externals=outside,
            gateways=gateways,
            rollouts=by_kind["rollout"],
        )

    def _known(self, service: str) -> bool:
        return service in self._listings or (self._world is not None and service in self._world.instances)

    def _policy(self, key: str, kind: str, name: str, revision: int, last: Stated[Any] | None) -> Stated[Any] | None:
        """What counts for one document: the store's, else the last good one, else for an intention a closed stand-in."""
        if key not in self._values:
            return self._absent(key, kind, name, last)
        try:
            record = decode(PolicyRecord, self._values[key])
            if record.revision > revision:
                self._early.add(key)
            revised = record.at(revision)
            self._proof.document(key, revised, self._values)
            thing = document_of(kind, name, revised) if revised else None
        except UnreadableRecord as error:
            return self._unreadable(key, kind, name, last, str(error))
        if revised is None and last:
            self._problems[key] = "denies that there was something before it: the last good version stays in force"
            return last
        self._problems.pop(key, None)
        if thing is None or revised is None:
            return None
        return Stated(thing, {part: origin.origin() for part, origin in revised.origins.items()})

    def _absent(self, key: str, kind: str, name: str, last: Stated[Any] | None) -> Stated[Any] | None:
        if last:
            self._problems[key] = "is missing without having been deleted: its last good version stays in force"
            return last
        try:
            self._proof.document(key, None, self._values)
        except UnreadableRecord as error:
            return self._unreadable(key, kind, name, last, str(error))
        self._problems.pop(key, None)
        return None

    def _unreadable(self, key: str, kind: str, name: str, last: Stated[Any] | None, problem: str) -> Stated[Any] | None:
        if last and not last.broken:
            self._problems[key] = f"{problem}: its last good version stays in force"
            return last
        if kind != "intention":
            self._problems[key] = f"{problem}: it is ignored"
            return None
        self._problems[key] = f"{problem}: everything it could allow is denied"
        closed = IntentionSource(name="*", action="deny", reason="the record cannot be read")
        return Stated(Intention(name=name, sources=(closed,)), {}, broken=problem)

    def _bundle(self, last: TrustBundle) -> TrustBundle:
        key = self._keys.bundle
        try:
            record = decode(BundleRecord, self._values[key])
            self._proof.bundle(record)
        except KeyError:
            self._problems[key] = "is missing: the last good trust bundle stays in force"
            return last
        except UnreadableRecord as error:
            self._problems[key] = f"{error}: the last good trust bundle stays in force"
            return last
        self._problems.pop(key, None)
        return record.bundle()


def went_back(manifest: bytes, world: World | None) -> bool:
    """Whether a manifest is older than the World in force, or cannot be read at all."""
    try:
        return decode(Manifest, manifest).revision < (world.revision if world else 0)
    except UnreadableRecord:
        return True


def _replace(held: dict[str, Any], name: str, stated: Stated[Any] | None) -> None:
    if stated is None:
        held.pop(name, None)
    else:
        held[name] = stated
