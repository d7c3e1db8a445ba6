"""How the demo prints: words, commands with what they said, and the closing table. Plain when nobody watches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import HEAVY_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

_console = Console(highlight=False, soft_wrap=True)
_PLAIN_WIDTH = 400  # of the table in a pipe or a file, where nobody's screen bounds it


@dataclass(frozen=True, slots=True)
class Row:
    """One observation. `took` in seconds from the commit that caused it, None where time says nothing."""

    step: str
    expected: str
    observed: str
    took: float | None = None

    @property
    def right(self) -> bool:
        """Whether what was seen is what had to be."""
        return self.expected == self.observed


def paragraph(text: str) -> None:
    """What happens next."""
    _console.print(f"\n{text}", style="bold", markup=False)


def shell(command: str, *said: str) -> None:
    """A command line and what it printed."""
    if command:
        _console.print(f"  $ {command}", style="cyan", markup=False)
    for line in (line for text in said for line in text.splitlines()):
        _console.print(f"    {line}", markup=False)


def closing_table(rows: Sequence[Row], seconds: float) -> None:
    """Everything observed."""
    watched = _console.is_terminal
    table = Table(title="What was observed in this run", title_justify="left", box=HEAVY_HEAD if watched else None)
    table.add_column("")
    for title in ("step", "expected", "observed"):
        table.add_column(title, overflow="fold")
    table.add_column("ms", justify="right")
    for row in rows:
        mark = Text("ok", "green") if row.right else Text("WRONG", "bold red")
        table.add_row(mark, Text(row.step), Text(row.expected), Text(row.observed), _milliseconds(row.took))
    _console.print()
    Console(width=None if watched else _PLAIN_WIDTH).print(table)
    wrong = sum(not row.right for row in rows)
    _console.print(
        f"\n{len(rows) - wrong} of {len(rows)} right, in {seconds:.1f} s. "
        "ms: from the commit in the store to the first time that it was seen."
    )


def _milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds * 1000:.0f}" if seconds >= 0.001 else "<1"
