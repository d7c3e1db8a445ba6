"""What can be said for the whole mesh, again for a service, and again for a rule of its route: the closest word counts."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from meshagent.model.logformat import Fields, Text
from meshagent.model.names import Duration, Model

SHORTEST = timedelta(milliseconds=1)  # Envoy counts in milliseconds, and takes 0 for "never"


def _check_some_time(value: timedelta) -> timedelta:
    if value < SHORTEST:
        raise ValueError("must be at least 1ms")
    return value


SomeTime = Annotated[Duration, AfterValidator(_check_some_time)]


LOG_FILES = {"file": "requests.log", "stdout": "stdout.log"}
"""In the agent's data directory: what Envoy writes for `to: file`, and what the agent prints for `to: stdout`."""


class AccessLog(Model):
    """Which requests are logged; with `errors`, also those that take longer than `slower_than`.

    `to`: the agent's own log; a `file` beside it, or the agent's `stdout`, or the collector of the mesh's tracing (`otlp`),
    written there in Envoy's own `format`, or as JSON with these `fields`, or else as in the agent's.
    """

    only: Literal["errors", "all", "none"] = "errors"
    slower_than: Duration | None = None
    to: Literal["agent", "file", "stdout", "otlp"] = "agent"
    format: Text | None = None
    fields: Fields | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.slower_than is not None and self.only != "errors":
            raise ValueError("slower_than needs only: errors (all logs every request, none no request)")
        if self.slower_than is not None and self.slower_than < SHORTEST:
            raise ValueError("slower_than must be at least 1ms")
        told = [name for name in ("format", "fields") if getattr(self, name) is not None]
        if len(told) > 1:
            raise ValueError("takes one of format and fields")
        if told and self.to == "agent":
            raise ValueError(f"{told[0]} needs to: file, stdout or otlp (the agent's log keeps the form that it reads)")
        if self.only == "none" and self.to != "agent":
            raise ValueError(f"only: none logs nothing, so there is nothing to: {self.to}")
        return self


class RetryBudget(Model):
    """How many retries one caller's proxy has under way towards a service: this share of its requests there, or so many.

    The greater of the two counts. Beyond: the answer that it has.
    """

    percent: Annotated[int, Field(ge=0, le=100)] = 20
    # With Envoy's 3, a host that dies under 8 connections used it up in every other run; with 10, retries over three hops
    # were a storm (R18, R30).
    min_concurrent: int = Field(default=5, ge=0, le=10_000)


class Timeouts(Model):
    """How long a whole answer may take (`request`), and how long nothing may move (`idle`). 0s: as long as it likes."""

    request: Duration | None = None
    idle: Duration | None = None


class MeshTimeouts(Timeouts):
    """The same for all services, and how long a proxy tries to reach an instance (`connect`)."""

    connect: SomeTime | None = None


class Sampling(Model):
    """Of how many calls in a hundred a trace begins. A call that comes with a trace goes on with it, sampled or not."""

    sampling: float = Field(default=1, ge=0, le=100)


class Tracing(Sampling):
    """Spans by OTLP over gRPC in plain text: `otlp` is the collector, such as 127.0.0.1:4317.

    `paths` puts each request's path into its spans, with its query, in which secrets may be.
    """

    otlp: Annotated[
        str, Field(pattern=r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?):[0-9]{1,5}$")
    ]
    paths: bool = False

    @model_validator(mode="after")
    def _a_port(self) -> Self:
        if not 0 < self.collector[1] <= 65535:
            raise ValueError("otlp needs a port between 1 and 65535")
        return self

    @property
    def collector(self) -> tuple[str, int]:
        """The host and port of the collector."""
        host, _, port = self.otlp.rpartition(":")
        return host.strip("[]"), int(port)
