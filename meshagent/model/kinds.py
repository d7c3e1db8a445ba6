"""The one list of policy kinds."""

from __future__ import annotations

from collections.abc import Mapping

from meshagent.model.external import External
from meshagent.model.gateway import Gateway
from meshagent.model.intention import Intention
from meshagent.model.mesh import Mesh
from meshagent.model.rollout import Rollout
from meshagent.model.route import Route
from meshagent.model.service import Service

Document = Mesh | Intention | Service | Route | External | Gateway | Rollout

KINDS: Mapping[str, type[Document]] = {
    "mesh": Mesh,
    "intention": Intention,
    "service": Service,
    "route": Route,
    "external": External,
    "gateway": Gateway,
    "rollout": Rollout,
}
