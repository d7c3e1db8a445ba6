"""YAML text to plain data with the line of every value. JSON is YAML. Nothing here knows a model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from meshagent.documents.compose import MAX_BYTES, Composer, Fields, Node, Path, Refused
from meshagent.documents.scalars import Scalar
from meshagent.errors import Problem

Plain = Scalar | list["Plain"] | dict[str, "Plain"]

_TOO_LARGE = f"is larger than {MAX_BYTES // 1024 // 1024} MiB: split it into several files"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NOT_YAML = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SURROGATES = re.compile(r"(?<!\\)((?:\\\\)*)\\u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})", re.IGNORECASE)


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
        return Problem(file, 0, "", _TOO_LARGE)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return Problem(file, line, "", "is not UTF-8 text: save it as UTF-8 without binary data")


def read_yaml(text: str, file: str) -> Reading:
    """All documents of a text. Empty ones are skipped; after an error of syntax nothing more can be read."""
    text = text.removeprefix("\ufeff")
    if len(text) > MAX_BYTES:
        return Reading(problems=(Problem(file, 0, "", _TOO_LARGE),))
    if strange := _NOT_YAML.search(text):
        line = text.count("\n", 0, strange.start()) + 1
        return Reading(problems=(Problem(file, line, "", _strange_words(strange[0])),))
    if text.lstrip()[:1] in ("{", "["):
        text = _SURROGATES.sub(_joined, text)
    composer = Composer(file)
    trees: list[Tree] = []
    broken: list[int] = []
    try:
        for line, fields, whole in composer.documents(yaml.parse(text, Loader=_LOADER)):
            if not whole:
                broken.append(len(trees))
            trees.append(_tree(line, fields))
    except Refused as refused:
        composer.report(refused.line, (), refused.message)
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the last two: escapes and directives out of range
        lines = text.split("\n")
        line = min(_error_line(error), len(lines))
        composer.report(line, (), _syntax_words(error, lines[line - 1]))
    return Reading(tuple(trees), tuple(composer.problems), frozenset(broken))


def line_of(lines: Mapping[Path, int], path: Path) -> int:
    """The line of the value, or of the nearest thing around it that has one; 0 when nothing has."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 0)


def _tree(line: int, fields: Fields) -> Tree:
    lines: dict[Path, int] = {(): line}
    return Tree(_mapping(fields, (), lines), lines)


def _mapping(fields: Fields, path: Path, lines: dict[Path, int]) -> dict[str, Plain]:
    data: dict[str, Plain] = {}
    for key, (line, value) in fields.items():
        lines[(*path, key)] = line
        data[key] = _plain(value, (*path, key), lines)
    return data


def _plain(node: Node, path: Path, lines: dict[Path, int]) -> Plain:
    if isinstance(node.value, dict):
        return _mapping(node.value, path, lines)
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


def _syntax_words(error: Exception, line: str) -> str:
    problem = str(getattr(error, "problem", None) or error)
    if "tab character" in problem or ("cannot start any token" in problem and "\t" in line[: -len(line.lstrip())]):
        return "is indented with a tab: YAML takes spaces only"
    hint = " (look at the indentation of this line and the one above)" if "did not find expected" in problem else ""
    return f"is not YAML: {problem}{hint}"
