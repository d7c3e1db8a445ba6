"""Defaults of the whole mesh."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal, Self

from pydantic import model_validator

from meshagent.model.intention import Action
from meshagent.model.names import Duration, Model, TrustDomain


class AccessLog(Model):
    """Which requests are logged; with `errors`, also those that take longer than `slower_than`."""

    only: Literal["errors", "all", "none"] = "errors"
    slower_than: Duration | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.slower_than is not None and self.only != "errors":
            raise ValueError("slower_than needs only: errors (all logs every request, none no request)")
        if self.slower_than is not None and self.slower_than < timedelta(milliseconds=1):
            raise ValueError("slower_than must be at least 1ms")
        return self


class Mesh(Model):
    """The mesh document: there is one, named `mesh`."""

    kind: Literal["mesh"] = "mesh"
    name: Literal["mesh"] = "mesh"
    trust_domain: TrustDomain = "mesh.internal"
    default_action: Action = "deny"
    access_log: AccessLog = AccessLog()
