"""ProxyView: what one Envoy must do. Left of it nobody knows Envoy, right of it nobody knows the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from meshagent.model.defaults import AccessLog, Tracing
from meshagent.model.external import External
from meshagent.model.gateway import Gateway
from meshagent.model.identity import Domains, Svid, TrustBundle
from meshagent.model.intention import Action, Permission
from meshagent.model.names import HTTP_PROTOCOLS, Protocol
from meshagent.model.route import RouteRule, Target
from meshagent.model.traffic import ALL_ADMITTED, NOTHING_ASKED, Admission, Traffic
from meshagent.model.world import Origin


@dataclass(frozen=True, slots=True)
class Rule:
    """One intention in force: what `source` (`*`: every source) may do. With `permissions`, they decide by request."""

    source: str
    action: Action | None
    permissions: tuple[Permission, ...]
    id: str  # "<destination of the record>/<source>", as logs and explain name it
    origin: Origin = field(default=Origin(), compare=False)
    reason: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Guard:
    """Decides every call to one destination: the first rule that names the source, then the default.

    `shadow` would decide in its place, were all that is said in shadow in force. None: it would decide alike.
    """

    destination: str
    rules: tuple[Rule, ...]
    default: Action
    shadow: Guard | None = None

    def rule_for(self, source: str) -> Rule | None:
        """The rule that decides for this source; None when the default does."""
        return next((rule for rule in self.rules if rule.source in (source, "*")), None)

    def action_for(self, source: str) -> Action | None:
        """What holds for every call of this source; None where permissions decide by request."""
        rule = self.rule_for(source)
        return rule.action if rule else self.default

    def doubts(self, source: str) -> bool:
        """Whether calls of this source that pass might not, were the shadow in force."""
        if self.shadow is None or self.action_for(source) == "deny" or self.shadow.action_for(source) == "allow":
            return False
        rule = self.rule_for(source)
        return rule is None or rule != self.shadow.rule_for(source)


@dataclass(frozen=True, slots=True)
class Chain:
    """Connections of one allowed source. A change of `cut` ends the connections that were made under the old value."""

    source: str
    cut: int


@dataclass(frozen=True, slots=True)
class Inbound:
    """One instance that runs here: where its app listens and who may reach it through `mtls_port`."""

    service: str
    instance: str
    protocol: Protocol
    app_address: str
    app_port: int
    mtls_port: int
    guard: Guard
    chains: tuple[Chain, ...]  # the sources that have a filter chain of their own
    default_cut: int  # as Chain.cut, for everyone else
    plain_port: int = 0  # permissive mTLS: plain text is taken on this port of the host's address; 0: not at all
    admission: Admission = ALL_ADMITTED
    access_log: AccessLog | None = None  # None: as the view's
    sampling: float | None = None  # percent of the calls without a trace of which one begins; None: no tracing here
    data_path: Literal["", "l4"] = ""  # l4: who may make any call at all is also taken as bytes

    @property
    def byte_chains(self) -> tuple[Chain, ...]:
        """The sources whose connections are taken as bytes when they ask for it: those of whom no request is judged."""
        whole = {rule.source for rule in self.guard.rules if rule.action == "allow"}
        return tuple(chain for chain in self.chains if chain.source in whole) if self.data_path else ()

    @property
    def default_open(self) -> bool:
        """Whether the default chain may hold anybody who is allowed: a stranger, or a named source without a chain."""
        stranger = self.guard.rule_for("")
        if (stranger is None and self.guard.default == "allow") or (stranger is not None and stranger.action != "deny"):
            return True
        allowed = sum(1 for rule in self.guard.rules if rule.source != "*" and rule.action != "deny")
        return allowed > len(self.chains)

    @property
    def shut_out(self) -> tuple[str, ...]:
        """Named sources that a TCP service must not even greet: they would else share the default chain with the allowed.

        RBAC looks at a caller's first byte, and a server that speaks first is heard before that (measured).
        """
        if self.protocol != "tcp" or not self.default_open:
            return ()
        return tuple(sorted(rule.source for rule in self.guard.rules if rule.source != "*" and rule.action == "deny"))


@dataclass(frozen=True, slots=True)
class Tier:
    """The instances of one place, of those that no earlier tier has. None: wherever they stand."""

    region: str | None = None
    zone: str | None = None

    def holds(self, region: str, zone: str) -> bool:
        """Whether an instance that stands there belongs here."""
        return self.region in (None, region) and self.zone in (None, zone)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One instance of an upstream, as its callers see it. Where it stands is told where the upstream has tiers."""

    address: str
    port: int
    healthy: bool = True
    subsets: tuple[str, ...] = ()  # of the service, that it belongs to
    proxy: Literal["", "consul"] = ""  # whose it stands behind, where that is not ours
    tier: int | None = None
    region: str = ""
    zone: str = ""

    @property
    def native(self) -> bool:
        """Whether it stands behind a proxy of Consul's own."""
        return self.proxy == "consul"


@dataclass(frozen=True, slots=True)
class Way:
    """One rule of a route as it holds for one caller: `to` has what is left of the rule's targets.

    Nothing left of some: requests are answered 503.
    """

    index: int  # the rule's place in its document
    rule: RouteRule
    to: tuple[Target, ...]
    origin: Origin = field(default=Origin(), compare=False)

    @property
    def nowhere(self) -> bool:
        """Whether it names targets of which none can be called."""
        return bool(self.rule.to) and not self.to


@dataclass(frozen=True, slots=True)
class Outbound:
    """One declared upstream of one service that runs here, or another service that a route of such a one leads to.

    With a `subset` it has the instances of that alone.
    """

    source: str
    upstream: str
    protocol: Protocol
    endpoints: tuple[Endpoint, ...]
    local_address: str = "127.0.0.1"
    local_port: int = 0
    local_socket: str = ""
    socket_mode: int = 0o660
    traffic: Traffic = NOTHING_ASKED
    plain_endpoints: tuple[Endpoint, ...] = ()  # of a permissive service: plain text, for who is not in the mesh
    divided: bool = False  # whether the service has subsets
    subset: str = ""
    data_path: Literal["", "l4"] = ""  # l4: connections of an HTTP upstream are passed on as bytes
    ways: tuple[Way, ...] = ()  # the first that matches a request decides; none: the upstream itself
    beyond: tuple[Outbound, ...] = ()  # what the ways and failovers lead to besides the upstream as a whole
    tiers: tuple[Tier, ...] = ()  # an instance is called while no earlier tier has one in service; none: all are alike
    failover: tuple[str, ...] = ()  # the services that are called while none of it is in service, in order

    @property
    def listened(self) -> bool:
        """Whether it has a port or socket of its own here; an upstream of a captured service need not."""
        return bool(self.local_port or self.local_socket)

    @property
    def by_request(self) -> bool:
        """Whether this caller's proxy sees requests on the way there, and not connections alone."""
        return self.protocol in HTTP_PROTOCOLS and not self.data_path

    @property
    def reached(self) -> tuple[Endpoint, ...]:
        """All instances that may be called."""
        return self.endpoints + self.plain_endpoints

    @property
    def traced(self) -> bool:
        """Whether calls by it may be in a trace: its service's, or those of a rule."""
        rules = (way.rule.tracing for way in self.ways)
        asked = (self.traffic.tracing, *(rule for rule in rules if self.traffic.tracing))
        return self.by_request and any(each is not None and each.sampling for each in asked)

    def serves(self, subset: str | None) -> bool:
        """Whether an instance is in service: of the subset, or any."""
        return any(each.healthy and (subset is None or subset in each.subsets) for each in self.reached)


@dataclass(frozen=True, slots=True)
class Egress:
    """One declared upstream of one service that runs here which is a name outside the mesh.

    `guard` has what holds for this source alone: nobody but this proxy can judge the call. A change of `cut` ends the
    connections that were made under the old value.
    """

    source: str
    external: External
    guard: Guard
    cut: int = 0
    local_address: str = "127.0.0.1"
    local_port: int = 0
    local_socket: str = ""
    socket_mode: int = 0o660

    @property
    def upstream(self) -> str:
        """The name that is declared."""
        return self.external.name

    @property
    def listened(self) -> bool:
        """Whether it has a port or socket of its own here."""
        return bool(self.local_port or self.local_socket)

    @property
    def closed(self) -> bool:
        """Whether no call of the source is allowed."""
        rule = self.guard.rule_for(self.source)
        return self.guard.default == "deny" if rule is None else rule.action == "deny"


@dataclass(frozen=True, slots=True)
class Captured:
    """A service whose connections the kernel leads to a port of its own: by that Envoy knows who calls."""

    source: str
    port: int


@dataclass(frozen=True, slots=True)
class ProxyView:
    """Everything that one proxy must do. `valid_until` is when an intention in it expires next."""

    host: str
    address: str
    trust_domain: str
    inbounds: tuple[Inbound, ...]
    outbounds: tuple[Outbound, ...]
    access_log: AccessLog = AccessLog()
    tracing: Tracing | None = None
    bundle: TrustBundle = TrustBundle()
    valid_until: datetime | None = None
    captured: tuple[Captured, ...] = ()
    egresses: tuple[Egress, ...] = ()
    gateways: tuple[Gateway, ...] = ()  # they call as sources of their own, by outbounds without a port

    @property
    def domains(self) -> Domains:
        """The trust domains whose certificates its peers may show."""
        return self.bundle.domains(self.trust_domain)

    @property
    def collected(self) -> bool:
        """Whether any access log goes to the collector."""
        said = [self.access_log, *(each.access_log for each in self.inbounds)]
        said += [each.traffic.access_log for each in self.outbounds]
        said += [way.rule.access_log for each in self.outbounds for way in each.ways]
        return any(each is not None and each.to == "otlp" for each in said)


Svids = Mapping[str, Svid]  # by service
