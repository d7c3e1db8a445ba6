"""What an import says of each object: every field that has no place in our documents, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from meshagent.documents.compose import Path, field_text
from meshagent.documents.read import line_of
from meshagent.errors import Problem

Verdict = Literal["left out", "changed", "mistake", "invalid", "not imported"]
"""`left out`: this field. `changed`: it means a little else now. `mistake`: the source does not do what it seems to.

`invalid`: the object is refused, as its own mesh would. `not imported`: nothing of the object was taken.
"""


class Misfit(Exception):
    """A value is not what its mesh would take: the object is refused as a whole, so that nothing is half imported."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(message)
        self.path = path
        self.message = message


@dataclass(frozen=True, slots=True)
class Note:
    """One finding. `thing` is the object, `field` the place in it."""

    file: str
    line: int
    thing: str
    field: str
    verdict: Verdict
    message: str

    def __str__(self) -> str:
        place = f"{self.thing} {self.field}" if self.field else self.thing
        return str(Problem(self.file, self.line, place, f"{self.verdict}: {self.message}"))


@dataclass(slots=True)
class Ledger:
    """The notes of one object. `lines` and `root` say where its fields stand in its file."""

    file: str
    thing: str
    lines: Mapping[Path, int]
    root: Path = ()
    notes: list[Note] = field(default_factory=list)

    def tell(self, path: Path, verdict: Verdict, message: str) -> None:
        """Note a finding at a path of the object; the same one is noted once."""
        line = line_of(self.lines, (*self.root, *path))
        note = Note(self.file, line, self.thing, field_text(path), verdict, message)
        if note not in self.notes:
            self.notes.append(note)
