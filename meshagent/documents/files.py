"""Files and directories -> text -> documents. The only file of this room that touches a disk."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, TypeVar

from pydantic import BaseModel

from meshagent.documents.compose import MAX_BYTES
from meshagent.documents.decode import Decoded, Located, decode_all, decode_documents, decode_one, twice
from meshagent.documents.read import text_of
from meshagent.errors import Problem

Document = TypeVar("Document", bound=BaseModel)

_ENDINGS = (".yaml", ".yml", ".json")
_CASES = tuple(f".cases{ending}" for ending in _ENDINGS)  # what `policy test` asks: no document


def read_documents_of(
    paths: Iterable[Path | str], kinds: Mapping[str, type[Document]], stdin: BinaryIO | None = None
) -> Decoded[Document]:
    """The documents of files, of directories (recursively, sorted), and of `-` (standard input), by kind.

    A kind and name that occurs twice in all of them is a problem. Hidden files, files of cases, and links to directories
    are left out.
    """
    decoded = _read(paths, stdin, lambda text, file: decode_documents(text, file, kinds))
    return Decoded(decoded.documents, (*decoded.problems, *twice(decoded.documents)))


def read_paths(paths: Iterable[Path | str], model: type[Document], stdin: BinaryIO | None = None) -> Decoded[Document]:
    """The same for files that hold one model only, without `kind`; two of them may share a name."""
    return _read(paths, stdin, lambda text, file: decode_all(text, file, model))


def read_cases(paths: Iterable[Path | str], model: type[Document]) -> Decoded[Document]:
    """What the files of cases among these paths, and in directories of them, hold: one model each, without `kind`."""
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            files += _inside(path, is_cases)[1]
        elif is_cases(path.name):
            files.append(path)
    return _read(files, None, lambda text, file: decode_one(text, file, model))


def is_cases(name: str) -> bool:
    """Whether a file of this name holds cases for `policy test`."""
    return name.endswith(_CASES) and not name.startswith(".")


def _read(
    paths: Iterable[Path | str], stdin: BinaryIO | None, decode: Callable[[str, str], Decoded[Document]]
) -> Decoded[Document]:
    found: list[Located[Document]] = []
    problems: list[Problem] = []
    for file, text in _texts(paths, stdin):
        decoded = decode(text, file) if isinstance(text, str) else Decoded((), (text,))
        found += decoded.documents
        problems += decoded.problems
    return Decoded(tuple(found), tuple(problems))


def _texts(paths: Iterable[Path | str], stdin: BinaryIO | None) -> Iterator[tuple[str, str | Problem]]:
    """Each file once, by its name as people see it: its text, or why there is none."""
    seen: set[Path] = set()
    for given in dict.fromkeys(map(str, paths)):
        if given == "-":
            yield "standard input", text_of((stdin or sys.stdin.buffer).read(MAX_BYTES + 1), "standard input")
            continue
        for file in _files(Path(given)):
            if isinstance(file, Problem):
                yield given, file
            elif (real := file.resolve()) not in seen:
                seen.add(real)
                yield str(file), file_text(file)


def file_text(file: Path) -> str | Problem:
    """The text of a file, or why there is none."""
    try:
        with file.open("rb") as opened:
            return text_of(opened.read(MAX_BYTES + 1), str(file))
    except OSError as error:
        return _unreadable(file, error)


def _files(path: Path) -> list[Path | Problem]:
    if not path.is_dir():
        return [path]
    problems, found = _inside(path, _is_documents)
    if not found and not problems:
        return [Problem(str(path), 0, "", f"holds no file that ends in {', '.join(_ENDINGS)}")]
    return [*problems, *found]


def _inside(path: Path, wanted: Callable[[str], bool]) -> tuple[list[Problem], list[Path]]:
    """The files with a wanted name below a directory, sorted, and what could not be looked into."""
    found: list[Path] = []
    problems: list[Problem] = []
    for directory, inner, names in os.walk(path, onerror=lambda error: problems.append(_unreadable(path, error))):
        inner[:] = (name for name in inner if not name.startswith("."))
        found += (Path(directory, name) for name in names if wanted(name))
    return problems, sorted(found)


def _is_documents(name: str) -> bool:
    return name.endswith(_ENDINGS) and not name.startswith(".") and not is_cases(name)


def _unreadable(path: Path, error: OSError) -> Problem:
    """Every failure to read, with what to do about it."""
    file = str(error.filename or path)
    if isinstance(error, FileNotFoundError):
        return Problem(file, 0, "", f"cannot be read: there is no such file (this is {Path.cwd()})")
    if isinstance(error, PermissionError):
        return Problem(file, 0, "", "cannot be read by this user: change its mode, or run as its owner")
    return Problem(file, 0, "", f"cannot be read: {error.strerror}: check the path and the disk")
