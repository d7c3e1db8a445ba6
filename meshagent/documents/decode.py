"""Text -> models, all problems at once. Knows no mesh word: the caller says which models there are."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from meshagent.documents.compose import Path, field_text
from meshagent.documents.read import Tree, line_of, read_yaml
from meshagent.documents.words import did_you_mean, words_for
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
    found: list[Located[Document]] = []
    problems = list(reading.problems)
    for index, tree in enumerate(reading.trees):
        model = _model_of(tree, file, kinds, problems)
        if model and (located := _validated(tree, file, model, problems)) and index not in reading.broken:
            found.append(located)
    return Decoded(tuple(found), _in_order(problems))


def decode_all(text: str, file: str, model: type[Document]) -> Decoded[Document]:
    """The documents of a text, all of one model and without `kind`."""
    reading = read_yaml(text, file)
    problems = list(reading.problems)
    located = [_validated(tree, file, model, problems) for tree in reading.trees]
    whole = [each for index, each in enumerate(located) if each and index not in reading.broken]
    return Decoded(tuple(whole), _in_order(problems))


def decode_one(text: str, file: str, model: type[Document]) -> Decoded[Document]:
    """The single document of a text; an empty text is an empty mapping."""
    reading = read_yaml(text, file)
    problems = list(reading.problems)
    if len(reading.trees) > 1:
        line = reading.trees[1].line_of(())
        problems.append(Problem(file, line, "", "a second document begins here, where one is expected"))
    trees = reading.trees[:1] or (() if problems else (Tree({}, {(): 0}),))
    located = [_validated(tree, file, model, problems) for tree in trees]
    return Decoded(tuple(each for each in located if each and not reading.broken), _in_order(problems))


def twice(documents: tuple[Located[Any], ...]) -> tuple[Problem, ...]:
    """A problem for each document whose kind and name an earlier one has."""
    seen: dict[tuple[str, str], Located[Any]] = {}
    problems = []
    for located in documents:
        name = (str(getattr(located.document, "kind", "")), str(getattr(located.document, "name", "")))
        if first := seen.get(name):
            words = f"is given twice (first in {first.file}:{first.line})"
            problems.append(Problem(located.file, located.line, " ".join(filter(None, name)), words))
        seen.setdefault(name, located)
    return tuple(problems)


def _model_of(
    tree: Tree, file: str, kinds: Mapping[str, type[Document]], problems: list[Problem]
) -> type[Document] | None:
    kind = tree.data.get("kind")
    if isinstance(kind, str) and kind in kinds:
        return kinds[kind]
    known = ", ".join(sorted(kinds))
    if kind is None:
        problems.append(Problem(file, tree.line_of(()), "kind", f"is missing; it is one of {known}"))
    else:
        words = f"must be one of {known}, not {kind!r}{did_you_mean(str(kind), kinds)}"
        problems.append(Problem(file, tree.line_of(("kind",)), "kind", words))
    return None


def _validated(tree: Tree, file: str, model: type[Document], problems: list[Problem]) -> Located[Document] | None:
    try:
        document = model.model_validate(tree.data)
    except ValidationError as error:
        problems.extend(_problem(each, tree, file, model) for each in error.errors(include_url=False))
        return None
    return Located(document, file, tree.line_of(()), tree.lines)


def _problem(error: ErrorDetails, tree: Tree, file: str, model: type[BaseModel]) -> Problem:
    path, around = _real_path(error["loc"], tree)
    fields, kind = _fields_at(model, around if error["type"] == "extra_forbidden" else path)
    return Problem(file, tree.line_of(path), field_text(path), words_for(error, fields, kind))


def _real_path(loc: tuple[str | int, ...], tree: Tree) -> tuple[Path, Path]:
    """(path of the value, path of what is around it). Steps that only pydantic takes (union branches) are left out."""
    path: tuple[str | int, ...] = ()
    value: Any = tree.data
    for position, step in enumerate(loc):
        inside = (isinstance(value, dict) and step in value) or (
            isinstance(value, list) and isinstance(step, int) and step < len(value)
        )
        if inside:
            value = value[step]
            path = (*path, step)
        elif position == len(loc) - 1 and isinstance(value, dict):
            path = (*path, step)  # a missing field
    return path, path[:-1]


def _fields_at(model: type[BaseModel], path: Path) -> tuple[list[str], str]:
    """The field names of the model that stands at the path, and its name in plain words."""
    current: type[BaseModel] | None = model
    for step in path:
        if isinstance(step, str) and current is not None and step in current.model_fields:
            current = _model_in(current.model_fields[step].annotation) or current
    if current is None:
        return [], "this"
    return list(current.model_fields), _plain_name(current)


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in typing.get_args(annotation):
        if found := _model_in(argument):
            return found
    return None


def _plain_name(model: type[BaseModel]) -> str:
    """`health check` for HealthCheck."""
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in model.__name__).strip()


def _in_order(problems: list[Problem]) -> tuple[Problem, ...]:
    return tuple(sorted(problems, key=lambda problem: problem.line))
