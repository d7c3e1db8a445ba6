"""Defaults of the whole mesh."""

from __future__ import annotations

from typing import Literal

from meshagent.model.intention import Action
from meshagent.model.names import Model, TrustDomain


class AccessLog(Model):
    """Which requests are logged."""

    only: Literal["errors", "all", "none"] = "errors"


class Mesh(Model):
    """The mesh document: there is one, named `mesh`."""

    kind: Literal["mesh"] = "mesh"
    name: Literal["mesh"] = "mesh"
    trust_domain: TrustDomain = "mesh.internal"
    default_action: Action = "deny"
    access_log: AccessLog = AccessLog()
