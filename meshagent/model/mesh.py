"""Defaults of the whole mesh."""

from __future__ import annotations

from typing import Literal

from meshagent.model.defaults import AccessLog, MeshTimeouts, RetryBudget, Tracing
from meshagent.model.intention import DefaultAction
from meshagent.model.names import Model, TrustDomain


class Mesh(Model):
    """The mesh document: there is one, named `mesh`.

    What it says of retries, times, logs and traces holds where neither the service nor the rule of its route says more.
    """

    kind: Literal["mesh"] = "mesh"
    name: Literal["mesh"] = "mesh"
    trust_domain: TrustDomain = "mesh.internal"
    default_action: DefaultAction = "deny"
    access_log: AccessLog = AccessLog()
    retry_budget: RetryBudget | None = None
    timeouts: MeshTimeouts = MeshTimeouts()
    tracing: Tracing | None = None
