"""How callers' proxies treat a service: balancing, limits, and which instances they leave out."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from meshagent.model.defaults import AccessLog, RetryBudget, Sampling, SomeTime, Timeouts
from meshagent.model.intention import Path
from meshagent.model.matching import HeaderKey, Part
from meshagent.model.names import Duration, Model

Limit = Annotated[int, Field(ge=1, le=1_000_000)]
Share = Annotated[int, Field(ge=0, le=100)]


class HashOn(Model):
    """What of a request says which instance it belongs to: exactly one of a header, a cookie and a query parameter.

    A cookie with a `cookie_ttl` is set by the proxy where the request has none.
    """

    header: HeaderKey | None = None
    cookie: Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$")] | None = None
    cookie_ttl: Duration | None = None
    query: Part | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(value is not None for value in (self.header, self.cookie, self.query)) != 1:
            raise ValueError("needs exactly one of header, cookie and query")
        if self.cookie_ttl is not None and self.cookie is None:
            raise ValueError("cookie_ttl needs cookie")
        return self


class LoadBalancer(Model):
    """Which instance is called. `slow_start`: an instance that comes back gets its full share after so long."""

    policy: Literal["least_request", "round_robin", "random", "ring_hash", "maglev"] = "least_request"
    hash_on: tuple[HashOn, ...] = ()
    slow_start: Duration | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        hashes = self.policy in ("ring_hash", "maglev")
        if hashes != bool(self.hash_on):
            raise ValueError("hash_on and a policy of ring_hash or maglev need each other")
        if self.slow_start is not None and self.policy not in ("least_request", "round_robin"):
            raise ValueError("slow_start needs the policy least_request or round_robin")
        return self


class ConnectionPool(Model):
    """Limits of one caller's proxy towards the service; what is not given is not limited. Beyond: 503, flag UO.

    `connect_timeout` is the mesh's `timeouts.connect` where it is not given, else 2s.
    """

    max_connections: Limit | None = None
    max_pending_requests: Limit | None = None
    max_requests: Limit | None = None
    max_requests_per_connection: Limit | None = None
    connect_timeout: SomeTime | None = None
    idle_timeout: Duration = timedelta(hours=1)


class OutlierDetection(Model):
    """Leaves out instances that fail, for `base_ejection_time` times the number of ejections. 0: that count is not used."""

    consecutive_5xx: int = Field(default=5, ge=0, le=10_000)
    consecutive_gateway_failure: int = Field(default=0, ge=0, le=10_000)
    consecutive_local_origin_failure: int = Field(default=0, ge=0, le=10_000)
    failure_percentage: Share = 0
    interval: Duration = timedelta(seconds=10)
    base_ejection_time: Duration = timedelta(seconds=30)
    max_ejection_time: Duration = timedelta(seconds=300)
    max_ejection_percent: Share = 50

    @model_validator(mode="after")
    def _times_in_order(self) -> Self:
        if self.base_ejection_time > self.max_ejection_time:
            raise ValueError("base_ejection_time must not be longer than max_ejection_time")
        if self.interval < timedelta(milliseconds=100):
            raise ValueError("interval must be at least 100ms")
        return self


class ProxyCheck(Model):
    """Callers' proxies ask each instance themselves, through mTLS: exactly one of http (a path), grpc and tcp.

    Intentions judge an http or grpc check as any other call of that service.
    """

    http: Path | None = None
    grpc: Literal[True] | None = None
    tcp: Literal[True] | None = None
    interval: Duration = timedelta(seconds=10)
    timeout: Duration = timedelta(seconds=2)
    healthy_threshold: int = Field(default=1, ge=1, le=100)
    unhealthy_threshold: int = Field(default=3, ge=1, le=100)

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(bool(value) for value in (self.http, self.grpc, self.tcp)) != 1:
            raise ValueError("needs exactly one of http, grpc and tcp")
        if min(self.interval, self.timeout) < timedelta(milliseconds=10):
            raise ValueError("interval and timeout must be at least 10ms")
        return self


class RateLimit(Model):
    """So many requests a second, `burst` of them at once (a second's worth unless told). Beyond: 429.

    Each instance's proxy counts for itself. `per: source` gives every calling service a measure of its own.
    """

    requests_per_second: float = Field(gt=0, le=1_000_000)
    burst: Limit | None = None
    per: Literal["service", "source"] = "service"


class AdaptiveConcurrency(Model):
    """Lets in as many requests at once as the app answers without queueing, by Envoy's gradient. Beyond: 503.

    Every `measured_each` the app's best latency is measured anew, with `fewest` requests at once. Each calling service
    is measured for itself.
    """

    measured_each: Duration = timedelta(seconds=60)
    most: Limit = 1000
    fewest: Annotated[int, Field(ge=1, le=1000)] = 3

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.measured_each < timedelta(seconds=1):
            raise ValueError("measured_each must be at least 1s")
        if self.fewest > self.most:
            raise ValueError("fewest must not be more than most")
        return self


class Admission(Model):
    """The settings of a service that its own proxy carries out, on requests that intentions let through."""

    rate_limit: RateLimit | None = None
    adaptive_concurrency: AdaptiveConcurrency | None = None


class Traffic(Model):
    """The settings of a service that its callers' proxies carry out.

    `retry_budget`, `timeouts`, `access_log` and `tracing` are the mesh's where they are not given. The last two are for
    the service's own proxy as well.
    """

    load_balancer: LoadBalancer = LoadBalancer()
    connection_pool: ConnectionPool = ConnectionPool()
    outlier_detection: OutlierDetection | None = None
    health_check: ProxyCheck | None = None
    retry_budget: RetryBudget | None = None
    timeouts: Timeouts = Timeouts()
    access_log: AccessLog | None = None
    tracing: Sampling | None = None


NOTHING_ASKED = Traffic()
ALL_ADMITTED = Admission()
