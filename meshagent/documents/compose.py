"""Parser events to nodes, within limits.

The composer is our own, over PyYAML's events, because a limit must hit before memory is spent: 40 lines of aliases
("billion laughs") would otherwise become terabytes. Files come from operators, but also from other people's pull requests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from meshagent.documents.scalars import Scalar, resolve
from meshagent.errors import Problem

MAX_BYTES = 4 * 1024 * 1024  # of one file, and of all text in it once aliases are expanded
MAX_NODES = 200_000  # values, keys not counted; 40,000 sources of intentions with a name and an action each
MAX_DEPTH = 64

Path = tuple[str | int, ...]
Event = Any  # the stubs of PyYAML leave the attributes of its events out

_TAG = "tag:yaml.org,2002:"
_SCALAR_TAGS: Mapping[str, tuple[type, ...]] = {
    f"{_TAG}str": (str,),
    f"{_TAG}int": (int,),
    f"{_TAG}float": (float, int),
    f"{_TAG}bool": (bool,),
    f"{_TAG}null": (type(None),),
}
_BARE_KEY = re.compile(r"[A-Za-z0-9_*/-]+")
_LONGEST_SHOWN_KEY = 64


def field_text(path: Path) -> str:
    """`sources[1].permissions[0].http` for ("sources", 1, "permissions", 0, "http"); odd keys are escaped."""
    parts: list[str] = []
    for step in path:
        if isinstance(step, int):
            parts.append(f"[{step}]")
        elif _BARE_KEY.fullmatch(step) and len(step) <= _LONGEST_SHOWN_KEY:
            parts.append(f".{step}" if parts else step)
        else:
            shown = step if len(step) <= _LONGEST_SHOWN_KEY else step[:_LONGEST_SHOWN_KEY] + "..."
            parts.append(f"[{shown!r}]")
    return "".join(parts)


@dataclass(frozen=True, slots=True)
class Node:
    """One value with its line, and what it stands for."""

    line: int
    value: Scalar | list[Node] | Fields
    nodes: int = 1  # how many nodes and characters it stands for, aliases expanded
    characters: int = 0
    height: int = 0  # levels below it


Fields = dict[str, tuple[int, Node]]  # the line of each key, and its value


class Refused(Exception):
    """The text goes beyond a limit: nothing more of it is read."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


def _is_plain(event: Event) -> bool:
    """Whether there is nothing to check of a key but its length."""
    return bool(event.anchor is None and event.tag is None and event.value != "<<" and event.value.isascii())


@dataclass(slots=True)
class Composer:
    """Folds parser events into nodes. Problems that leave the rest readable are collected, others raise `Refused`."""

    file: str
    problems: list[Problem] = field(default_factory=list)
    anchors: dict[str, Node | None] = field(default_factory=dict)  # None: its node is not complete yet
    nodes: int = 0
    characters: int = 0

    def report(self, line: int, path: Path, message: str) -> None:
        """Note a problem that leaves the rest readable."""
        self.problems.append(Problem(self.file, line, field_text(path), message))

    def documents(self, events: Iterator[Event]) -> Iterator[tuple[int, Fields, bool]]:
        """Of each document that is a mapping: its line, its fields, and whether it is free of problems."""
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                self.anchors.clear()
                before = len(self.problems)
                node = self._node(next(events), events, ())
                if isinstance(node.value, dict):
                    yield node.line, node.value, len(self.problems) == before
                elif node.value is not None:
                    self.report(node.line, (), "a document must be a mapping of fields (name: value)")

    def _node(self, event: Event, events: Iterator[Event], path: Path) -> Node:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, line, path)
        self._spend(line, 1, 0)
        self._check_depth(line, len(path))
        if type(event) is yaml.ScalarEvent and event.anchor is None:  # almost all of them
            return self._scalar(event, path)
        anchor = getattr(event, "anchor", None)
        if anchor:
            self.anchors[anchor] = None
        if isinstance(event, yaml.MappingStartEvent):
            node = self._mapping(event, events, path)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._sequence(event, events, path)
        else:
            node = self._scalar(event, path)
        if anchor:
            self.anchors[anchor] = node
        return node

    def _mapping(self, start: Event, events: Iterator[Event], path: Path) -> Node:
        line = start.start_mark.line + 1
        self._check_tag(start, "map", path)
        fields: dict[str, tuple[int, Node]] = {}
        nodes, characters, height = 1, 0, 0
        for event in events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            at = event.start_mark.line + 1
            key = self._key(event, events, path)
            value = self._node(next(events), events, (*path, key))
            if key in fields:
                self.report(at, (*path, key), f"is given twice (first in line {fields[key][0]})")
                continue
            fields[key] = (at, value)
            nodes += value.nodes
            characters += len(key) + value.characters
            height = max(height, 1 + value.height)
        return Node(line, fields, nodes, characters, height)

    def _sequence(self, start: Event, events: Iterator[Event], path: Path) -> Node:
        line = start.start_mark.line + 1
        self._check_tag(start, "seq", path)
        items: list[Node] = []
        for event in events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            items.append(self._node(event, events, (*path, len(items))))
        nodes = 1 + sum(item.nodes for item in items)
        height = max((1 + item.height for item in items), default=0)
        return Node(line, items, nodes, sum(item.characters for item in items), height)

    def _scalar(self, event: Event, path: Path) -> Node:
        line, text = event.start_mark.line + 1, str(event.value)
        self._spend(line, 0, len(text))
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            self.report(line, path, "holds half of a surrogate pair, which is no character")
            text = ""
        return Node(line, self._scalar_value(event, text, line, path), 1, len(text))

    def _scalar_value(self, event: Event, text: str, line: int, path: Path) -> Scalar:
        unquoted, quoted = event.implicit
        if quoted or event.tag == "!":
            return text
        if unquoted:
            return resolve(text)
        value = text if event.tag == f"{_TAG}str" else resolve(text)
        types = _SCALAR_TAGS.get(event.tag)
        if types is None:
            self.report(line, path, f"has the tag {event.tag!r}, which is not taken: documents are plain data")
        elif type(value) not in types:
            self.report(line, path, f"is not what its tag !!{event.tag.removeprefix(_TAG)} says")
        return value

    def _key(self, event: Event, events: Iterator[Event], path: Path) -> str:
        """A key's text as it is written: `on`, `no` and `1` are the texts on, no and 1."""
        line = event.start_mark.line + 1
        if isinstance(event, yaml.ScalarEvent):
            if _is_plain(event):
                self._spend(line, 0, len(event.value))
                return str(event.value)
            self._node(event, events, path)
            self.nodes -= 1
            if event.implicit[0] and event.value == "<<":
                self.report(line, path, "has a merge key (<<), which is not taken: write the fields out")
            return str(event.value)
        if isinstance(event, yaml.AliasEvent):
            node = self._alias(event, line, path)
            if isinstance(node.value, str):
                return node.value
        raise Refused(line, "has a key that is not text")

    def _alias(self, event: Event, line: int, path: Path) -> Node:
        if event.anchor not in self.anchors:
            raise Refused(line, f"refers to the anchor {event.anchor!r}, which is not defined above it")
        node = self.anchors[event.anchor]
        if node is None:
            raise Refused(line, f"refers to the anchor {event.anchor!r} from inside of it")
        self._spend(line, node.nodes, node.characters)
        self._check_depth(line, len(path) + node.height)
        return node

    def _check_tag(self, event: Event, name: str, path: Path) -> None:
        if event.tag not in (None, "!", f"{_TAG}{name}"):
            line = event.start_mark.line + 1
            self.report(line, path, f"has the tag {event.tag!r}, which is not taken: documents are plain data")

    def _check_depth(self, line: int, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise Refused(line, f"is nested more than {MAX_DEPTH} levels deep")

    def _spend(self, line: int, nodes: int, characters: int) -> None:
        self.nodes += nodes
        self.characters += characters
        if self.nodes > MAX_NODES:
            raise Refused(line, f"holds more than {MAX_NODES:,} values, aliases expanded: split the file")
        if self.characters > MAX_BYTES:
            raise Refused(line, f"holds more than {MAX_BYTES // 1024 // 1024} MiB of text, aliases expanded")
