"""YAML text to plain data with the line of every value. JSON is YAML. Nothing here knows a model.

The composer is our own, over PyYAML's events, because each limit must hit before memory is spent: 40 lines of aliases
("billion laughs") would otherwise become terabytes. Files come from operators, but also from pull requests.
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
MAX_NODES = 100_000
MAX_DEPTH = 64

Plain = Scalar | list["Plain"] | dict[str, "Plain"]
Path = tuple[str | int, ...]

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_SCALAR_TAGS: Mapping[str, tuple[type, ...]] = {
    f"{_TAG}str": (str,),
    f"{_TAG}int": (int,),
    f"{_TAG}float": (float, int),
    f"{_TAG}bool": (bool,),
    f"{_TAG}null": (type(None),),
}
_NOT_YAML = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SURROGATES = re.compile(r"(?<!\\)((?:\\\\)*)\\u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})", re.IGNORECASE)
_BARE_KEY = re.compile(r"[A-Za-z0-9_*/-]+")
_LONGEST_SHOWN_KEY = 64


@dataclass(frozen=True, slots=True)
class Tree:
    """One document: a mapping as plain data, and the 1-based line of each value by its path (`()`: the document)."""

    data: dict[str, Plain]
    lines: Mapping[Path, int]

    def line_of(self, path: Path) -> int:
        """The line of the value, or of the nearest thing around it that stands in the text."""
        return line_of(self.lines, path)


@dataclass(frozen=True, slots=True)
class Reading:
    """Every document that could be read, and every problem. `broken` holds the indexes of trees with a problem."""

    trees: tuple[Tree, ...] = ()
    problems: tuple[Problem, ...] = ()
    broken: frozenset[int] = frozenset()


def text_of(raw: bytes, file: str) -> str | Problem:
    """The text of a file's bytes: UTF-8, with or without a byte order mark, at most MAX_BYTES."""
    if len(raw) > MAX_BYTES:
        return Problem(file, 0, "", f"is larger than {MAX_BYTES // 1024 // 1024} MiB: split it into several files")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return Problem(file, line, "", "is not UTF-8 text: save it as UTF-8 without binary data")


def read_yaml(text: str, file: str) -> Reading:
    """All documents of a text. Empty ones are skipped; after an error of syntax nothing more can be read."""
    text = text.removeprefix("\ufeff")
    if len(text) > MAX_BYTES:
        return Reading(problems=(Problem(file, 0, "", f"is larger than {MAX_BYTES // 1024 // 1024} MiB"),))
    if strange := _NOT_YAML.search(text):
        line = text.count("\n", 0, strange.start()) + 1
        return Reading(problems=(Problem(file, line, "", _strange_words(strange[0])),))
    if text.lstrip()[:1] in ("{", "["):
        text = _SURROGATES.sub(_joined, text)
    composer = _Composer(file)
    trees: list[Tree] = []
    broken: list[int] = []
    try:
        for node, whole in composer.documents(yaml.parse(text, Loader=_LOADER)):
            if not whole:
                broken.append(len(trees))
            trees.append(_tree(node))
    except _Refused as refused:
        composer.report(refused.line, (), refused.message)
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the last two: escapes and directives out of range
        composer.report(min(_error_line(error), text.count("\n") + 1), (), _syntax_words(error))
    return Reading(tuple(trees), tuple(composer.problems), frozenset(broken))


def field_text(path: Path) -> str:
    """`sources[1].permissions[0].http` for ("sources", 1, "permissions", 0, "http"). Odd keys are quoted and escaped."""
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


def line_of(lines: Mapping[Path, int], path: Path) -> int:
    """The line of the value, or of the nearest thing around it that has one; 0 when nothing has."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 0)


@dataclass(frozen=True, slots=True)
class _Node:
    line: int
    value: Scalar | list[_Node] | dict[str, tuple[int, _Node]]  # a mapping keeps the line of each key
    nodes: int = 1  # how many nodes and characters it stands for, aliases expanded
    characters: int = 0


class _Refused(Exception):
    """The text goes beyond a limit: nothing more of it is read."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


@dataclass(slots=True)
class _Composer:
    """Folds parser events into nodes. Problems that leave the rest readable are collected, others raise `_Refused`."""

    file: str
    problems: list[Problem] = field(default_factory=list)
    anchors: dict[str, _Node | None] = field(default_factory=dict)  # None: its node is not complete yet
    nodes: int = 0
    characters: int = 0

    def report(self, line: int, path: Path, message: str) -> None:
        self.problems.append(Problem(self.file, line, field_text(path), message))

    def documents(self, events: Iterator[yaml.Event]) -> Iterator[tuple[_Node, bool]]:
        """Each document that is a mapping, and whether it is free of problems."""
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                self.anchors.clear()
                before = len(self.problems)
                node = self.node(next(events), events, ())
                if isinstance(node.value, dict):
                    yield node, len(self.problems) == before
                elif node.value is not None:
                    self.report(node.line, (), "must be a mapping of fields (name: value)")

    def node(self, event: yaml.Event, events: Iterator[yaml.Event], path: Path) -> _Node:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event, line)
        self.spend(line, 1, 0)
        if len(path) > MAX_DEPTH:
            raise _Refused(line, f"is nested more than {MAX_DEPTH} levels deep")
        anchor = getattr(event, "anchor", None)
        if anchor:
            self.anchors[anchor] = None
        if isinstance(event, yaml.MappingStartEvent):
            node = self.mapping(event, events, path)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self.sequence(event, events, path)
        else:
            node = self.scalar(event, path)
        if anchor:
            self.anchors[anchor] = node
        return node

    def mapping(self, start: yaml.Event, events: Iterator[yaml.Event], path: Path) -> _Node:
        line = start.start_mark.line + 1
        self.check_tag(start, "map", path)
        fields: dict[str, tuple[int, _Node]] = {}
        nodes, characters = 1, 0
        for event in events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            at = event.start_mark.line + 1
            key = self.key(event, events, path)
            value = self.node(next(events), events, (*path, key))
            if key in fields:
                self.report(at, (*path, key), f"is given twice (first in line {fields[key][0]})")
                continue
            fields[key] = (at, value)
            nodes += 1 + value.nodes
            characters += len(key) + value.characters
        return _Node(line, fields, nodes, characters)

    def sequence(self, start: yaml.Event, events: Iterator[yaml.Event], path: Path) -> _Node:
        line = start.start_mark.line + 1
        self.check_tag(start, "seq", path)
        items: list[_Node] = []
        for event in events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            items.append(self.node(event, events, (*path, len(items))))
        return _Node(line, items, 1 + sum(item.nodes for item in items), sum(item.characters for item in items))

    def scalar(self, event: yaml.Event, path: Path) -> _Node:
        line, text = event.start_mark.line + 1, str(event.value)
        self.spend(line, 0, len(text))
        if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            self.report(line, path, "holds half of a surrogate pair, which is no character")
            text = ""
        return _Node(line, self.scalar_value(event, text, line, path), 1, len(text))

    def scalar_value(self, event: yaml.Event, text: str, line: int, path: Path) -> Scalar:
        unquoted, quoted = event.implicit
        if unquoted:
            return resolve(text)
        if quoted or event.tag in (None, "!"):
            return text
        value = text if event.tag == f"{_TAG}str" else resolve(text)
        types = _SCALAR_TAGS.get(event.tag)
        if types is None:
            self.report(line, path, f"has the tag {event.tag!r}, which is not taken: documents are plain data")
        elif type(value) not in types:
            self.report(line, path, f"is not what its tag !!{event.tag.removeprefix(_TAG)} says")
        return value

    def key(self, event: yaml.Event, events: Iterator[yaml.Event], path: Path) -> str:
        """A key's text as it is written: `on`, `no` and `1` are the texts on, no and 1."""
        line = event.start_mark.line + 1
        if isinstance(event, yaml.ScalarEvent):
            node = self.node(event, events, path)
            if event.implicit[0] and event.value == "<<":
                self.report(line, path, "has a merge key (<<), which is not taken: write the fields out")
            return str(event.value) if node.value is not None or event.value else ""
        if isinstance(event, yaml.AliasEvent):
            node = self.alias(event, line)
            if isinstance(node.value, str):
                return node.value
        raise _Refused(line, "has a key that is not text")

    def alias(self, event: yaml.Event, line: int) -> _Node:
        if event.anchor not in self.anchors:
            raise _Refused(line, f"refers to the anchor {event.anchor!r}, which is not defined above it")
        node = self.anchors[event.anchor]
        if node is None:
            raise _Refused(line, f"refers to the anchor {event.anchor!r} from inside of it")
        self.spend(line, node.nodes, node.characters)
        return node

    def check_tag(self, event: yaml.Event, name: str, path: Path) -> None:
        if event.tag not in (None, "!", f"{_TAG}{name}"):
            line = event.start_mark.line + 1
            self.report(line, path, f"has the tag {event.tag!r}, which is not taken: documents are plain data")

    def spend(self, line: int, nodes: int, characters: int) -> None:
        self.nodes += nodes
        self.characters += characters
        if self.nodes > MAX_NODES:
            raise _Refused(line, f"holds more than {MAX_NODES:,} values, aliases expanded: split the file")
        if self.characters > MAX_BYTES:
            raise _Refused(line, f"holds more than {MAX_BYTES // 1024 // 1024} MiB of text, aliases expanded")


def _tree(node: _Node) -> Tree:
    lines: dict[Path, int] = {(): node.line}
    data = _plain(node, (), lines)
    assert isinstance(data, dict)
    return Tree(data, lines)


def _plain(node: _Node, path: Path, lines: dict[Path, int]) -> Plain:
    if isinstance(node.value, dict):
        fields: dict[str, Plain] = {}
        for key, (line, value) in node.value.items():
            lines[(*path, key)] = line
            fields[key] = _plain(value, (*path, key), lines)
        return fields
    if isinstance(node.value, list):
        items: list[Plain] = []
        for index, item in enumerate(node.value):
            lines[(*path, index)] = item.line
            items.append(_plain(item, (*path, index), lines))
        return items
    return node.value


def _joined(match: re.Match[str]) -> str:
    """JSON writes characters beyond U+FFFF as two escapes, which YAML does not know; YAML has `\\U0001f600`."""
    high, low = int(match[2], 16), int(match[3], 16)
    return f"{match[1]}\\U{0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00):08x}"


def _strange_words(character: str) -> str:
    if character == "\0":
        return "holds a NUL byte: this is not a text file"
    return f"holds the character U+{ord(character):04X}, which YAML does not allow"


def _error_line(error: Exception) -> int:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return mark.line + 1 if mark else 1


def _syntax_words(error: Exception) -> str:
    problem = str(getattr(error, "problem", None) or error)
    if "tab character" in problem or "'\\t'" in problem:
        return "is indented with a tab: YAML takes spaces only"
    hint = " (look at the indentation of this line and the one above)" if "did not find expected" in problem else ""
    return f"is not YAML: {problem}{hint}"
