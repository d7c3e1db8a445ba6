"""Texts of another mesh -> our documents and the report. Every object is in one of the two, and so is every field."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from meshagent.documents.read import Reading, read_yaml
from meshagent.errors import Problem
from meshagent.importing.assembly import assemble
from meshagent.importing.consul.entries import consul_parts, consul_sources
from meshagent.importing.hcl import read_hcl
from meshagent.importing.istio.objects import WORDS as ISTIO_WORDS
from meshagent.importing.istio.objects import istio_parts, istio_sources
from meshagent.importing.kuma.policies import kuma_parts, kuma_sources
from meshagent.importing.ledger import Note
from meshagent.importing.names import Names
from meshagent.importing.parts import Part, Source
from meshagent.model.kinds import Document

Mesh = Literal["istio", "consul", "kuma"]
MESHES: tuple[Mesh, ...] = ("istio", "consul", "kuma")


@dataclass(frozen=True, slots=True)
class _Reader:
    sources: Callable[[Reading, str], Iterator[Source]]
    parts: Callable[[Sequence[Source], Names], list[Part]]
    words: Mapping[str, str]


_READERS: Mapping[Mesh, _Reader] = {
    "istio": _Reader(istio_sources, istio_parts, ISTIO_WORDS),
    "consul": _Reader(consul_sources, consul_parts, {}),
    "kuma": _Reader(kuma_sources, kuma_parts, {}),
}


@dataclass(frozen=True, slots=True)
class Imported:
    """`documents` can be applied. `objects` is how many were read, `taken` of how many something was imported."""

    documents: tuple[Document, ...]
    notes: tuple[Note, ...]
    problems: tuple[Problem, ...]
    objects: int
    taken: int


def import_policy(mesh: Mesh, texts: Iterable[tuple[str, str | Problem]], given: Mapping[str, str]) -> Imported:
    """Import the texts of files, by their names; `given` maps names of the source to ours.

    A text that cannot be read is a problem, never an exception.
    """
    reader, names = _READERS[mesh], Names(given)
    sources: list[Source] = []
    problems: list[Problem] = []
    for file, text in texts:
        reading = _read(file, text)
        problems += reading.problems
        sources += reader.sources(reading, file)
    documents = assemble(reader.parts(sources, names), sources, names)
    for source in sources:
        source.whole.leftovers(reader.words)
        if not (source.given or source.settled) and not source.ledger.notes:
            source.ledger.tell((), "not imported", "it says nothing that could be imported")
    notes = tuple(note for source in sources for note in sorted(source.ledger.notes, key=lambda each: each.line))
    taken = sum(bool(source.given or source.settled) for source in sources)
    return Imported(documents, notes, tuple(problems), len(sources), taken)


def _read(file: str, text: str | Problem) -> Reading:
    if isinstance(text, Problem):
        return Reading(problems=(text,))
    if file.endswith(".hcl"):
        return read_hcl(text, file)
    reading = read_yaml(text, file)
    whole = tuple(tree for index, tree in enumerate(reading.trees) if index not in reading.broken)
    return Reading(whole, reading.problems)
