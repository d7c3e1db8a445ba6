"""The one list of policy kinds."""

from __future__ import annotations

from collections.abc import Mapping

from meshagent.model.intention import Intention
from meshagent.model.mesh import Mesh
from meshagent.model.route import Route
from meshagent.model.service import Service

Document = Mesh | Intention | Service | Route

KINDS: Mapping[str, type[Document]] = {"mesh": Mesh, "intention": Intention, "service": Service, "route": Route}
