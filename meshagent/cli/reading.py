"""Documents from files: which problems stop a command, and where every part of a document stands."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from meshagent.documents.compose import field_text
from meshagent.documents.decode import Located
from meshagent.documents.files import read_documents_of, read_paths
from meshagent.errors import InvalidDocument, Problem, UsageProblem
from meshagent.model.intention import Intention
from meshagent.model.kinds import KINDS, Document
from meshagent.model.route import Route
from meshagent.model.service import ServiceDefinition
from meshagent.model.world import Origin, Stated
from meshagent.state.changes import Author, Name

Written = Located[Document]
_SETTINGS = (
    ("access_log",),
    ("retry_budget",),
    ("timeouts", "request"),
    ("timeouts", "idle"),
    ("timeouts", "connect"),
    ("connection_pool", "connect_timeout"),
    ("tracing",),
)
"""The parts of mesh and service documents that several may say: `explain` tells the line of the one that counts."""


def read_policy(files: Sequence[str]) -> tuple[tuple[Written, ...], tuple[Problem, ...]]:
    """The policy documents of files, directories and `-`, and every problem. Raises UsageProblem where there is nothing."""
    with _uncollected():
        decoded = read_documents_of(files, KINDS)
    if not decoded.documents and not decoded.problems:
        raise UsageProblem(f"there is no document in {', '.join(files)}", next_step="each has a kind and a name")
    return decoded.documents, decoded.problems


@contextmanager
def _uncollected() -> Iterator[None]:
    """All that is read is kept: looking for garbage among it again and again is a tenth of the time for 1,000 documents."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def read_definitions(files: Sequence[str]) -> tuple[ServiceDefinition, ...]:
    """The service definitions of files and `-`. Raises InvalidDocument with every problem, UsageProblem."""
    decoded = read_paths(files, ServiceDefinition)
    if decoded.problems:
        policy = any(problem.field == "kind" for problem in decoded.problems)
        hint = (
            "documents with a kind are policy: meshagent policy apply -f FILE" if policy else "nothing was registered"
        )
        raise InvalidDocument(decoded.problems, next_step=hint)
    if not decoded.documents:
        raise UsageProblem(f"there is no service in {', '.join(files)}", next_step="each has a name and a port")
    return tuple(located.document for located in decoded.documents)


def name_of(written: Written) -> Name:
    """What tells a document from the others."""
    return (written.document.kind, written.document.name)


def finding(written: Written, message: str, *path: str | int) -> Problem:
    """Something to say of a value of a document (without a path: of the document)."""
    return Problem(written.file, written.line_of(*path), field_text(path), message)


def stated(written: Written, by: Author) -> Stated[Document]:
    """The document with its origins: the whole's, and those of its parts (an intention's sources, a route's rules, settings)."""
    origins = {"": _origin(written, by)}
    if isinstance(written.document, Intention):
        for index, source in enumerate(written.document.sources):
            origins[source.part] = _origin(written, by, "sources", index)
    elif isinstance(written.document, Route):
        for index in range(len(written.document.rules)):
            origins[str(index)] = _origin(written, by, "rules", index)
    else:
        origins |= {".".join(path): _origin(written, by, *path) for path in _SETTINGS if path in written.lines}
    return Stated(written.document, origins)


def _origin(written: Written, by: Author, *path: str | int) -> Origin:
    return Origin(written.file, written.line_of(*path), by.who, by.at)
