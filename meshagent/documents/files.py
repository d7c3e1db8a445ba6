"""Files and directories -> text -> documents. The only file of this room that touches a disk."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from meshagent.documents.compose import MAX_BYTES
from meshagent.documents.decode import Decoded, Located, decode_all, decode_documents, twice
from meshagent.documents.read import text_of
from meshagent.errors import Problem

Document = TypeVar("Document", bound=BaseModel)
_ENDINGS = (".yaml", ".yml", ".json")


def read_documents_of(paths: Iterable[Path | str], kinds: Mapping[str, type[Document]]) -> Decoded[Document]:
    """The documents of files, of directories (recursively, sorted), and of `-` (standard input), by kind."""
    found: list[Located[Document]] = []
    problems: list[Problem] = []
    for name, text in _texts(paths, problems):
        decoded = decode_documents(text, name, kinds)
        found.extend(decoded.documents)
        problems.extend(decoded.problems)
    return Decoded(tuple(found), (*problems, *twice(tuple(found))))


def read_paths(paths: Iterable[Path | str], model: type[Document]) -> Decoded[Document]:
    """The same for files that hold one model only."""
    found: list[Located[Document]] = []
    problems: list[Problem] = []
    for name, text in _texts(paths, problems):
        decoded = decode_all(text, name, model)
        found.extend(decoded.documents)
        problems.extend(decoded.problems)
    return Decoded(tuple(found), tuple(problems))


def _texts(paths: Iterable[Path | str], problems: list[Problem]) -> Iterable[tuple[str, str]]:
    for given in paths:
        if str(given) == "-":
            text = text_of(sys.stdin.buffer.read(MAX_BYTES + 1), "standard input")
            yield from _good("standard input", text, problems)
            continue
        for path in _files(Path(given), problems):
            try:
                with path.open("rb") as file:
                    raw = file.read(MAX_BYTES + 1)
            except OSError as error:
                problems.append(Problem(str(path), 0, "", f"cannot be read: {error.strerror}"))
                continue
            yield from _good(str(path), text_of(raw, str(path)), problems)


def _good(name: str, text: str | Problem, problems: list[Problem]) -> Iterable[tuple[str, str]]:
    if isinstance(text, Problem):
        problems.append(text)
    else:
        yield name, text


def _files(path: Path, problems: list[Problem]) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(each for each in path.rglob("*") if each.suffix in _ENDINGS and each.is_file())
    if not found:
        problems.append(Problem(str(path), 0, "", f"holds no file that ends in {', '.join(_ENDINGS)}"))
    return found
