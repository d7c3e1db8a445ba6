"""Plain data -> a model, or what is wrong with it, by path.

Pydantic's strict mode for JSON is used: text is no number, `true` is no port, and a number is no time (in its lax mode
`expires_at: 20270101` is a second of August 1970). Lists become tuples, and text becomes times and durations, all the same.
"""

from __future__ import annotations

import json
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, Union

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from meshagent.documents.compose import Path
from meshagent.documents.words import words_for

MAX_FINDINGS = 200  # more are not put into words: nobody reads them, and a file may be made to hold 100,000

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong at a path of the data; `()` is the whole."""

    path: Path
    message: str


def validate(model: type[M], data: Mapping[str, Any], *, strict: bool = True) -> M | tuple[Finding, ...]:
    """The model of JSON-like data, or every finding. With `strict=False`, text such as "8080" may stand for a number."""
    try:
        return model.model_validate_json(json.dumps(data), strict=strict)
    except ValidationError as error:
        return tuple(_findings(error.errors(include_url=False), data, model))


def model_words(model: type[BaseModel]) -> str:
    """`intention source` for IntentionSource."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", model.__name__).lower()


def _findings(errors: list[ErrorDetails], data: Mapping[str, Any], model: type[BaseModel]) -> Iterator[Finding]:
    by_path: dict[Path, list[ErrorDetails]] = {}
    for error in errors:
        by_path.setdefault(_data_path(error, data), []).append(error)
    for count, (path, group) in enumerate(by_path.items()):
        if count >= MAX_FINDINGS:
            yield Finding(path, group[0]["msg"])
            continue
        around = tuple(_models_at(model, path[:-1])) if path else (model,)
        fields = dict.fromkeys(_spelling(name, field) for each in around for name, field in each.model_fields.items())
        yield Finding(path, words_for(group, fields, " or ".join(model_words(each) for each in around)))


def _data_path(error: ErrorDetails, data: Mapping[str, Any]) -> Path:
    """The error's path in the data. Steps that only pydantic takes (a union's branch, a mapping's key) are left out."""
    path: Path = ()
    value: Any = data
    for step in error["loc"]:
        in_list = isinstance(value, list) and isinstance(step, int) and step < len(value)
        if in_list or (isinstance(value, dict) and step in value):
            path, value = (*path, step), value[step]
    if error["type"] == "missing":
        return (*path, error["loc"][-1])
    if error["type"].startswith("union_tag_"):
        return (*path, str(error.get("ctx", {}).get("discriminator", "")).strip("'"))
    return path


def _models_at(annotation: Any, path: Path) -> Iterator[type[BaseModel]]:
    """The models that may stand at a path: one, or the members of a union."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        yield from _models_at(arguments[0], path)
    elif origin in (Union, types.UnionType):
        for branch in arguments:
            yield from _models_at(branch, path)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not path:
            yield annotation
        for name, field in annotation.model_fields.items():
            if path and _spelling(name, field) == path[0]:
                yield from _models_at(field.annotation, path[1:])
    elif arguments and path:  # tuple[X, ...], list[X], dict[str, X]
        inner = [argument for argument in arguments if argument is not Ellipsis]
        yield from _models_at(inner[-1], path[1:])


def _spelling(name: str, field: Any) -> str:
    return field.alias or name
