"""Consul's HCL -> plain data with the line of each value.

Consul reads HCL 1, where a block may stand inside of a list's object (`Match { HTTP { ... } }`). Readers of HCL 2 refuse
that: python-hcl2 8.1.4 reads 37 of 49 real config entries. Nothing here evaluates: `${...}` is text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from meshagent.documents.compose import MAX_BYTES, MAX_DEPTH, Path
from meshagent.documents.read import Reading, Tree
from meshagent.errors import Problem

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n,]+|\#[^\n]*|//[^\n]*|/\*.*?\*/)
    |(?P<heredoc><<(?P<dash>-?)(?P<mark>[A-Za-z_][A-Za-z0-9_]*)\r?\n)
    |(?P<text>"(?:[^"\\\n]|\\.)*")
    |(?P<number>-?(?:0x[0-9a-fA-F]+|[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)(?![\w.]))
    |(?P<word>[A-Za-z_][A-Za-z0-9_.-]*)
    |(?P<sign>[=:{}\[\]])""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.))", re.DOTALL)
_LETTERS = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_WORDS: dict[str, Any] = {"true": True, "false": False, "null": None}


class _Broken(Exception):
    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # text, number, word, sign or end
    value: Any
    line: int


def read_hcl(text: str, file: str) -> Reading:
    """The one mapping that a text is, and what is wrong with it."""
    if len(text) > MAX_BYTES:
        return Reading(problems=(Problem(file, 0, "", "is too large: split it into several files"),))
    try:
        parser = _Parser(_tokens(text.removeprefix("\ufeff")))
        data = parser.body((), "end")
    except _Broken as broken:
        return Reading(problems=(Problem(file, broken.line, "", f"is not HCL: {broken}"),))
    return Reading((Tree(data, {(): 1} | parser.lines),))


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    at, line = 0, 1
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise _Broken(line, f"the character {text[at]!r} begins nothing")
        if found["heredoc"]:
            value, end = _heredoc(text, found, line)
            tokens.append(_Token("text", value, line))
        else:
            end = found.end()
            if not found["space"]:
                kind = next(name for name in ("text", "number", "word", "sign") if found[name] is not None)
                tokens.append(_Token(kind, _value(kind, found[0], line), line))
        line += text.count("\n", at, end)
        at = end
    return [*tokens, _Token("end", "the end", line)]


def _heredoc(text: str, found: re.Match[str], line: int) -> tuple[str, int]:
    """The lines up to the one that holds the mark alone; `<<-` takes the indentation away."""
    end = re.compile(rf"^[ \t]*{found['mark']}[ \t]*\r?$", re.MULTILINE).search(text, found.end())
    if end is None:
        raise _Broken(line, f"the text that begins here has no line {found['mark']} at its end")
    lines = text[found.end() : end.start()].splitlines(keepends=True)
    if found["dash"]:
        indent = min((len(each) - len(each.lstrip(" \t")) for each in lines if each.strip()), default=0)
        lines = [each[indent:] for each in lines]
    return "".join(lines), end.end()


def _value(kind: str, text: str, line: int) -> Any:
    if kind == "text":
        return _ESCAPE.sub(lambda found: _unescaped(found, line), text[1:-1])
    if kind == "number":
        if re.fullmatch(r"-?(0x[0-9a-fA-F]{1,15}|[0-9]{1,18})", text):
            return int(text, 16 if "x" in text else 10)
        return float(text)
    return text


def _unescaped(found: re.Match[str], line: int) -> str:
    code = found[1] or found[2]
    number = int(code, 16) if code else int(found[3], 8) if found[3] else None
    if number is None:
        return _LETTERS.get(found[4], found[4])
    if number > 0x10FFFF or 0xD800 <= number <= 0xDFFF:
        raise _Broken(line, f"{found[0]} is no character")
    return chr(number)


@dataclass(slots=True)
class _Parser:
    tokens: list[_Token]
    at: int = 0
    lines: dict[Path, int] = field(default_factory=dict)

    def next(self) -> _Token:
        token = self.tokens[self.at]
        self.at += 1
        return token

    def body(self, path: Path, end: str) -> dict[str, Any]:
        """Fields up to the end. A block that comes again makes a list of all of that name."""
        data: dict[str, Any] = {}
        repeated: set[str] = set()
        while True:
            token = self.next()
            if token.kind == "end" or (token.value == end and token.kind == "sign"):
                if (token.kind == "end") != (end == "end"):
                    raise _Broken(token.line, "a } is missing")
                return data
            if token.kind not in ("word", "text"):
                raise _Broken(token.line, f"a field's name is expected, not {token.value!r}")
            self._member(data, repeated, token, path)

    def _member(self, data: dict[str, Any], repeated: set[str], token: _Token, path: Path) -> None:
        key = token.value
        count = len(data[key]) if key in repeated else 1 if key in data else 0
        block = self.tokens[self.at].value == "{" or self.tokens[self.at].kind == "text"
        place = (*path, key, count) if count else (*path, key)
        self.lines[place] = token.line
        value = self._after_name(place)
        if not count:
            data[key] = value
        elif not block or not isinstance(value, dict) or not isinstance(data[key], dict | list):
            raise _Broken(token.line, f"{key} is given twice")
        elif key in repeated:
            data[key].append(value)
        else:
            repeated.add(key)
            data[key] = [data[key], value]

    def _after_name(self, path: Path) -> Any:
        """What stands after a field's name: `= value`, a block, or a label and a block."""
        token = self.next()
        if token.kind == "sign" and token.value in ("=", ":"):
            return self.value(path)
        if token.kind == "sign" and token.value == "{":
            return self._nested(path, token)
        if token.kind == "text" and len(path) <= MAX_DEPTH:
            return {token.value: self._after_name((*path, token.value))}
        if token.kind == "text":
            raise _Broken(token.line, f"is nested more than {MAX_DEPTH} levels deep")
        raise _Broken(token.line, f"a value for {path[-1]} is expected, not {token.value!r}")

    def _nested(self, path: Path, token: _Token) -> dict[str, Any]:
        if len(path) > MAX_DEPTH:
            raise _Broken(token.line, f"is nested more than {MAX_DEPTH} levels deep")
        return self.body(path, "}")

    def value(self, path: Path) -> Any:
        """A text, a number, true, false, null, a list or an object."""
        token = self.next()
        if token.kind in ("text", "number"):
            return token.value
        if token.kind == "word" and token.value in _WORDS:
            return _WORDS[token.value]
        if token.kind == "sign" and token.value == "{":
            return self._nested(path, token)
        if token.kind == "sign" and token.value == "[":
            return self._list(path, token)
        raise _Broken(token.line, f"a value is expected, not {token.value!r}")

    def _list(self, path: Path, token: _Token) -> list[Any]:
        if len(path) > MAX_DEPTH:
            raise _Broken(token.line, f"is nested more than {MAX_DEPTH} levels deep")
        items: list[Any] = []
        while not (self.tokens[self.at].kind == "sign" and self.tokens[self.at].value == "]"):
            place = (*path, len(items))
            self.lines[place] = self.tokens[self.at].line
            items.append(self.value(place))
        self.at += 1
        return items
