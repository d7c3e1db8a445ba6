"""Nomad's job files as blocks: read by a parser of HCL 2, variables filled in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hcl2

JOBS = Path(__file__).parents[2] / "nomad"
_HEREDOC = re.compile(r'"<<(-?)(\w+)\n(.*)\n\s*\2"', re.DOTALL)
_VARIABLE = re.compile(r"\$\{var\.(\w+)\}")
_MARK = "__is_block__"


@dataclass
class Block:
    """`kind "label" { attributes, blocks }`. What Nomad fills in later (`${NOMAD_TASK_DIR}`) is still text."""

    kind: str
    labels: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)

    def all(self, kind: str) -> list[Block]:
        """The blocks of a kind directly within."""
        return [each for each in self.blocks if each.kind == kind]

    def one(self, kind: str) -> Block:
        """The one block of a kind."""
        (found,) = self.all(kind)
        return found

    def walk(self) -> Iterator[Block]:
        """It and all within."""
        yield self
        for each in self.blocks:
            yield from each.walk()


def read(text: str, given: Mapping[str, Any] | None = None) -> Block:
    """The file as one block, with the variables' defaults or what is `given`. Raises what the parser raises, and KeyError."""
    raw = hcl2.loads(text)
    values: dict[str, Any] = {}
    for each in _blocks("variable", raw.get("variable", [])):
        values[each.labels[0]] = each.attributes.get("default")
    values |= given or {}
    return _block("file", (), raw, values)


def _block(kind: str, labels: tuple[str, ...], body: Mapping[str, Any], values: Mapping[str, Any]) -> Block:
    made = Block(kind, labels)
    for key, value in body.items():
        if key in (_MARK, "__comments__"):
            continue
        if _is_blocks(value):
            made.blocks += _blocks(key, value, values)
        else:
            made.attributes[key] = _value(value, values)
    return made


def _blocks(kind: str, raw: list[dict[str, Any]], values: Mapping[str, Any] | None = None) -> list[Block]:
    found = []
    for each in raw:
        labels: tuple[str, ...] = ()
        body = each
        while _MARK not in body:
            ((label, body),) = body.items()
            labels += (label.strip('"'),)
        found.append(_block(kind, labels, body, values or {}))
    return found


def _is_blocks(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) and _marked(each) for each in value)


def _marked(value: Mapping[str, Any]) -> bool:
    return _MARK in value or any(isinstance(each, dict) and _marked(each) for each in value.values())


def _value(raw: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(raw, list):
        return [_value(each, values) for each in raw]
    if isinstance(raw, dict):
        return {key.strip('"'): _value(each, values) for key, each in raw.items()}
    if not isinstance(raw, str):
        return raw
    if raw.startswith('"'):
        heredoc = _HEREDOC.fullmatch(raw)
        text = heredoc[3] + "\n" if heredoc else raw[1:-1].replace('\\"', '"').replace("\\n", "\n")
        return _VARIABLE.sub(lambda found: str(values[found[1]]), text)
    whole = _VARIABLE.fullmatch(raw)
    return values[whole[1]] if whole else raw
