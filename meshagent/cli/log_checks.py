"""Access logs that documents send where nobody takes them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from meshagent.cli.reading import Written, finding, name_of
from meshagent.errors import Problem
from meshagent.model.defaults import AccessLog
from meshagent.model.kinds import Document
from meshagent.model.mesh import Mesh
from meshagent.model.route import Route
from meshagent.model.service import Service
from meshagent.state.changes import Name

Path = tuple[str | int, ...]


def log_errors(written: Sequence[Written], after: Mapping[Name, Document]) -> Iterator[Problem]:
    """Logs by OTLP in a mesh without a collector, as far as these documents are the cause of it."""
    mesh = after.get(("mesh", "mesh"))
    if isinstance(mesh, Mesh) and mesh.tracing:
        return
    places = {name_of(each): each for each in written}
    missing = places.get(("mesh", "mesh"))
    for name, document in after.items():
        for path, log in _logs(document):
            if log is None or log.to != "otlp":
                continue
            words = "otlp needs a collector, which the mesh document names: tracing: {otlp: HOST:PORT}"
            if here := places.get(name):
                yield finding(here, words, *path, "to")
            elif missing:
                yield finding(
                    missing, f"names no collector, and the access log of {' '.join(name)} goes there", "tracing"
                )


def _logs(document: Document) -> Iterator[tuple[Path, AccessLog | None]]:
    if isinstance(document, Mesh | Service):
        yield ("access_log",), document.access_log
    elif isinstance(document, Route):
        for number, rule in enumerate(document.rules):
            yield ("rules", number, "access_log"), rule.access_log
