"""Text -> models, all problems at once. Knows no mesh word: the caller says which models there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from meshagent.documents.compose import Path, field_text
from meshagent.documents.read import Reading, Tree, line_of, read_yaml
from meshagent.documents.validate import MAX_FINDINGS, model_words, validate
from meshagent.documents.words import did_you_mean, instead
from meshagent.errors import Problem

Document = TypeVar("Document", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Located(Generic[Document]):
    """A document and where it stands. `lines`: the line of each value by path, such as ("sources", 1)."""

    document: Document
    file: str
    line: int
    lines: Mapping[Path, int]

    def line_of(self, *path: str | int) -> int:
        """The line of a value, or of the nearest thing around it."""
        return line_of(self.lines, path)


@dataclass(frozen=True, slots=True)
class Decoded(Generic[Document]):
    """What could be read, and every problem. With problems, nothing should be applied."""

    documents: tuple[Located[Document], ...] = ()
    problems: tuple[Problem, ...] = ()


def decode_documents(text: str, file: str, kinds: Mapping[str, type[Document]]) -> Decoded[Document]:
    """The documents of a text, each of the kind that its field `kind` names."""
    reading = read_yaml(text, file)
    return _decoded(reading, file, (_by_kind(tree, file, kinds) for tree in reading.trees))


def decode_all(text: str, file: str, model: type[Document]) -> Decoded[Document]:
    """The documents of a text, all of one model and without `kind`."""
    reading = read_yaml(text, file)
    return _decoded(reading, file, (_validated(tree, file, model, model_words(model)) for tree in reading.trees))


def decode_one(text: str, file: str, model: type[Document]) -> Decoded[Document]:
    """The single document of a text; an empty text is an empty mapping."""
    reading = read_yaml(text, file)
    trees, problems = reading.trees, reading.problems
    if len(trees) > 1:
        words = "a second document begins here, where one is expected"
        problems = (*problems, Problem(file, trees[1].line_of(()), "", words))
    elif not trees and not problems:
        trees = (Tree({}, {(): 0}),)
    single = Reading(trees[:1], problems, reading.broken)
    found = _decoded(single, file, (_validated(tree, file, model, model_words(model)) for tree in single.trees))
    return found if len(trees) <= 1 else Decoded((), found.problems)


def twice(documents: Iterable[Located[Any]]) -> tuple[Problem, ...]:
    """A problem for each document whose kind and name an earlier one has, naming both places."""
    seen: dict[tuple[str, str], Located[Any]] = {}
    problems = []
    for located in documents:
        name = (str(getattr(located.document, "kind", "")), str(getattr(located.document, "name", "")))
        if first := seen.get(name):
            words = f"is given twice (first in {first.file}:{first.line})"
            problems.append(Problem(located.file, located.line, " ".join(filter(None, name)), words))
        seen.setdefault(name, located)
    return tuple(problems)


Outcome = Located[Document] | tuple[Problem, ...]


def _decoded(reading: Reading, file: str, outcomes: Iterator[Outcome[Document]]) -> Decoded[Document]:
    documents: list[Located[Document]] = []
    problems = list(reading.problems)
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, tuple):
            problems += outcome
        elif index not in reading.broken:
            documents.append(outcome)
    problems.sort(key=lambda problem: problem.line)
    if (more := len(problems) - MAX_FINDINGS) > 0:
        problems[MAX_FINDINGS:] = [Problem(file, 0, "", f"and {more:,} more problems")]
    return Decoded(tuple(documents), tuple(problems))


def _by_kind(tree: Tree, file: str, kinds: Mapping[str, type[Document]]) -> Outcome[Document]:
    kind = tree.data.get("kind")
    if isinstance(kind, str) and kind in kinds:
        name = tree.data.get("name")
        return _validated(tree, file, kinds[kind], f"{kind} {name}" if isinstance(name, str) else kind)
    known = ", ".join(sorted(kinds))
    words = f"must be one of {known}{instead(kind)}{did_you_mean(str(kind), kinds)}"
    if "kind" not in tree.data:
        words = f"is missing: it is one of {known}"
    return (Problem(file, tree.line_of(("kind",)), "kind", words),)


def _validated(tree: Tree, file: str, model: type[Document], subject: str) -> Outcome[Document]:
    """The document, or its problems. One that concerns the whole begins with the subject instead of a field."""
    outcome = validate(model, tree.data)
    if not isinstance(outcome, tuple):
        return Located(outcome, file, tree.line_of(()), tree.lines)
    return tuple(
        Problem(file, tree.line_of(each.path), field_text(each.path) or subject, each.message) for each in outcome
    )
