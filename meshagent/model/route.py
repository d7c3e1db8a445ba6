"""Routes: what callers of a service get. The first rule that matches a request decides; no rule: the service itself."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from meshagent.model.defaults import SHORTEST, AccessLog, Sampling, SomeTime
from meshagent.model.intention import Method, Path, Regex
from meshagent.model.matching import HeaderKey, Part, RouteHeader, RouteMatch, Text
from meshagent.model.names import Duration, Model, ServiceName
from meshagent.model.traffic import RateLimit

Percent = Annotated[float, Field(gt=0, le=100)]
Status = Annotated[int, Field(ge=200, le=599)]
SubsetName = ServiceName
MAX_ATTEMPTS, MAX_RULES, MAX_WEIGHT, MAX_TARGETS = 10, 256, 1_000_000, 32
MAX_BODY = 4096  # bytes, as Envoy has it
_RESERVED = ("host", "content-length", "transfer-encoding", "connection")

RetryOn = Literal[
    "5xx", "gateway-error", "reset", "connect-failure", "refused-stream", "retriable-4xx", "reset-before-request",
    "cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable",
]  # fmt: skip
"""As Envoy names them; the last five are gRPC status codes."""


def _check_changeable(name: str) -> str:
    if name in _RESERVED or name.startswith((":", "x-envoy-", "x-forwarded-", "x-mesh-")):
        raise ValueError("cannot be changed: the proxies depend on it")
    return name


ChangeableHeader = Annotated[HeaderKey, AfterValidator(_check_changeable)]


class HeaderChanges(Model):
    """Headers to set (replacing), to add (beside what is there) and to remove, in this order: remove, set, add."""

    set: dict[ChangeableHeader, Text] = {}
    add: dict[ChangeableHeader, Text] = {}
    remove: tuple[ChangeableHeader, ...] = ()

    def __hash__(self) -> int:
        """Without it pydantic copies the default of every rule and target in depth, a tenth of the time to read policy."""
        return hash((tuple(sorted(self.set.items())), tuple(sorted(self.add.items())), self.remove))

    @property
    def names(self) -> frozenset[str]:
        """The headers that it changes."""
        return frozenset({*self.set, *self.add, *self.remove})


class Headers(Model):
    """Changes of the request's and the response's headers."""

    request: HeaderChanges = HeaderChanges()
    response: HeaderChanges = HeaderChanges()

    def clashes(self, other: Headers) -> frozenset[str]:
        """The headers that both change on the same way."""
        return (self.request.names & other.request.names) | (self.response.names & other.response.names)


class Target(Model):
    """Where requests go: a subset or all of a service (the route's own unless named), with a share of them by weight."""

    service: ServiceName | None = None
    subset: SubsetName | None = None
    weight: int = Field(default=1, ge=0, le=MAX_WEIGHT)
    headers: Headers = Headers()


class Backoff(Model):
    """The pause before a retry: random up to a bound that doubles from `base` to `max`."""

    base: Duration = timedelta(milliseconds=25)
    max: Duration = timedelta(milliseconds=250)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not SHORTEST <= self.base <= self.max:
            raise ValueError("needs 1ms <= base <= max")
        return self


class Retry(Model):
    """Up to `attempts` tries more, where the first ended in one of `on` or with a status in `statuses`.

    Without `methods`, requests of every method are tried again. All retries of a caller's proxy towards a service are
    at most a fifth of its requests under way there.
    """

    attempts: int = Field(default=2, ge=0, le=MAX_ATTEMPTS)
    per_try_timeout: SomeTime | None = None
    on: tuple[RetryOn, ...] = ("connect-failure", "refused-stream", "reset-before-request")
    statuses: tuple[Status, ...] = ()
    methods: tuple[Method, ...] = ()
    backoff: Backoff = Backoff()

    @model_validator(mode="after")
    def _has_a_reason(self) -> Self:
        if self.attempts and not self.on and not self.statuses:
            raise ValueError("needs on or statuses: nothing would ever be tried again")
        return self


class Delay(Model):
    """Hold back this share of requests for so long."""

    percent: Percent = 100
    duration: SomeTime


class Abort(Model):
    """Answer this share of requests at once, with an HTTP or a gRPC status."""

    percent: Percent = 100
    status: Status | None = None
    grpc_status: int | None = Field(default=None, ge=1, le=16)

    @model_validator(mode="after")
    def _one_status(self) -> Self:
        if (self.status is None) == (self.grpc_status is None):
            raise ValueError("needs either status or grpc_status")
        return self


class Fault(Model):
    """Injected faults, for all requests or for those with these headers."""

    delay: Delay | None = None
    abort: Abort | None = None
    headers: tuple[RouteHeader, ...] = ()

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if self.delay is None and self.abort is None:
            raise ValueError("needs delay or abort")
        return self


class Mirror(Model):
    """A copy of this share of requests to another place, whose answers nobody waits for."""

    service: ServiceName | None = None
    subset: SubsetName | None = None
    percent: Percent = 100


class RegexRewrite(Model):
    """RE2 pattern and what is put in its place (`\\1`: the first group)."""

    pattern: Regex
    substitution: Text

    @model_validator(mode="after")
    def _names_groups_that_are_there(self) -> Self:
        groups = re.compile(self.pattern).groups
        for named in re.findall(r"\\(.?)", self.substitution):
            if named != "\\" and not (named.isdigit() and int(named) <= groups):
                raise ValueError(f"substitution has \\{named}, and the pattern has {groups} groups (\\\\: a backslash)")
        return self


class Rewrite(Model):
    """What the destination sees instead: of the path, the matched prefix, all of it, or what a regex finds; of the host."""

    path: Path | None = None
    path_prefix: Path | None = None
    path_regex: RegexRewrite | None = None
    host: Part | None = None

    @model_validator(mode="after")
    def _one_path(self) -> Self:
        given = [name for name in ("path", "path_prefix", "path_regex") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"takes one of path, path_prefix and path_regex, not {' and '.join(given)}")
        if not given and self.host is None:
            raise ValueError("needs path, path_prefix, path_regex or host")
        return self


class Redirect(Model):
    """An answer that sends the caller elsewhere. What is not given stays as it was asked."""

    status: Literal[301, 302, 303, 307, 308] = 302
    scheme: Literal["http", "https"] | None = None
    host: Part | None = None
    port: int | None = Field(default=None, ge=1, le=65535)
    path: Path | None = None
    path_prefix: Path | None = None
    strip_query: bool = False

    @model_validator(mode="after")
    def _goes_elsewhere(self) -> Self:
        if self.path is not None and self.path_prefix is not None:
            raise ValueError("takes one of path and path_prefix")
        given = (self.scheme, self.host, self.port, self.path, self.path_prefix)
        if not self.strip_query and all(value is None for value in given):
            raise ValueError("needs scheme, host, port, path, path_prefix or strip_query")
        return self


class Respond(Model):
    """An answer that the caller's own proxy gives. `body` has at most 4096 bytes."""

    status: Status
    body: str = ""
    content_type: Part = "text/plain"

    @model_validator(mode="after")
    def _is_short(self) -> Self:
        if len(self.body.encode()) > MAX_BODY:
            raise ValueError(f"body is longer than {MAX_BODY} bytes")
        return self


class Origin(Model):
    """Web pages of this origin."""

    exact: Part | None = None
    prefix: Part | None = None
    regex: Regex | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(value is not None for value in (self.exact, self.prefix, self.regex)) != 1:
            raise ValueError("needs one of exact, prefix and regex")
        return self


class Cors(Model):
    """Which web pages may call, as the Fetch standard has it. Browsers ask with OPTIONS first; the proxy answers that."""

    allow_origins: tuple[Origin, ...] = Field(min_length=1)
    allow_methods: tuple[Method, ...] = ()
    allow_headers: tuple[HeaderKey, ...] = ()
    expose_headers: tuple[HeaderKey, ...] = ()
    allow_credentials: bool = False
    max_age: Duration | None = None


class Hedge(Model):
    """A second request when the first has not answered within the retry's per_try_timeout; the first answer counts."""

    on_per_try_timeout: Literal[True] = True


_AFTER_THE_WAY = (
    "strict",
    "timeout",
    "idle_timeout",
    "max_stream_duration",
    "retry",
    "hedge",
    "mirror",
    "rewrite",
    "cors",
)
_FOR_TCP = ("name", "match", "to", "strict", "idle_timeout", "access_log")


class RouteRule(Model):
    """One rule. `to`, `redirect` or `respond`; none of them: to the service itself.

    A split leaves out targets without an instance in service, unless it is `strict`. Timeouts of 0s: none. `timeout` is
    for the whole answer, `idle_timeout` for the time in which nothing moves, `max_stream_duration` for streams. The first two,
    `access_log` (at callers) and `tracing` are the service's or the mesh's where they are not given.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,63}$")] | None = None
    match: RouteMatch = RouteMatch()
    to: tuple[Target, ...] = Field(default=(), max_length=MAX_TARGETS)
    strict: bool = False
    timeout: Duration | None = None
    idle_timeout: Duration | None = None
    max_stream_duration: Duration | None = None
    retry: Retry | None = None
    hedge: Hedge | None = None
    fault: Fault | None = None
    mirror: tuple[Mirror, ...] = ()
    rewrite: Rewrite | None = None
    redirect: Redirect | None = None
    respond: Respond | None = None
    headers: Headers = Headers()
    cors: Cors | None = None
    rate_limit: RateLimit | None = None
    access_log: AccessLog | None = None
    tracing: Sampling | None = None

    @model_validator(mode="after")
    def _one_end(self) -> Self:
        ends = [name for name in ("to", "redirect", "respond") if getattr(self, name)]
        if len(ends) > 1:
            raise ValueError(f"takes one of to, redirect and respond, not {' and '.join(ends)}")
        if ends and not self.to:
            idle = [name for name in _AFTER_THE_WAY if getattr(self, name)]
            idle += ["headers.request"] if self.headers.request.names else []
            if idle:
                raise ValueError(f"{ends[0]} is answered here, so {' and '.join(idle)} would do nothing")
        return self

    @model_validator(mode="after")
    def _splits(self) -> Self:
        if self.to and not any(target.weight for target in self.to):
            raise ValueError("to: the weights are all 0, so nothing would be called")
        if len({(target.service, target.subset) for target in self.to}) < len(self.to):
            raise ValueError("to: names a target twice")
        if self.strict and len(self.to) < 2:
            raise ValueError("strict: is about several targets, and there are none to choose from")
        for target in self.to:
            if twice := self.headers.clashes(target.headers):
                raise ValueError(f"to: a target and the rule both change the header {min(twice)}")
        return self

    @model_validator(mode="after")
    def _fits_its_path(self) -> Self:
        for name in ("rewrite", "redirect"):
            wanted = getattr(self, name)
            if wanted and wanted.path_prefix is not None and self.match.whole_path:
                raise ValueError(f"{name}.path_prefix needs match.path_prefix: that is what it replaces")
        return self

    @model_validator(mode="after")
    def _tries_in_time(self) -> Self:
        each = self.retry.per_try_timeout if self.retry else None
        if self.hedge and (self.retry is None or each is None or not self.retry.attempts):
            raise ValueError("hedge needs retry.per_try_timeout and attempts: that is when the second request is made")
        if each and self.timeout and each >= self.timeout:
            raise ValueError("retry.per_try_timeout must be shorter than timeout, which is for all tries together")
        return self

    @model_validator(mode="after")
    def _browsers_may_ask(self) -> Self:
        if self.cors and self.match.methods and "OPTIONS" not in self.match.methods:
            raise ValueError("cors needs OPTIONS in match.methods: browsers ask with it before they call")
        return self

    @property
    def asked_of_requests(self) -> tuple[str, ...]:
        """The fields by which it asks for something that a connection does not have."""
        asked = (name for name in type(self).model_fields if name not in _FOR_TCP)
        changed = [name for name in asked if getattr(self, name) != type(self).model_fields[name].default]
        by_target = ["to.headers"] if any(target.headers != Headers() for target in self.to) else []
        return (*(["match"] if self.match.by_request else []), *by_target, *changed)

    @property
    def for_http_alone(self) -> bool:
        """Whether it asks for something that a TCP connection does not have."""
        return bool(self.asked_of_requests)


class Route(Model):
    """All rules of one destination (`name`), in the order in which they are tried."""

    kind: Literal["route"] = "route"
    name: ServiceName
    rules: tuple[RouteRule, ...] = Field(default=(), max_length=MAX_RULES)

    @property
    def services(self) -> frozenset[str]:
        """The other services that requests are sent to or copied to."""
        called = {target.service for rule in self.rules for target in rule.to}
        copied = {mirror.service for rule in self.rules for mirror in rule.mirror}
        return frozenset(name for name in called | copied if name is not None) - {self.name}
