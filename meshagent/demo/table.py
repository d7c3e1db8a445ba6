"""How the demo prints: words, commands with what they said, and the closing table. Plain when nobody watches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

_console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Row:
    """One observation. `took` in seconds, None where time says nothing."""

    step: str
    expected: str
    observed: str
    took: float | None
    right: bool


def paragraph(text: str) -> None:
    """What happens next."""
    _console.print(f"\n{text}", style="bold")


def shell(command: str, out: str, err: str) -> None:
    """A command line and what it printed."""
    if command:
        _console.print(f"  $ {command}", style="cyan", markup=False)
    for line in (*out.splitlines(), *err.splitlines()):
        _console.print(f"    {line}", markup=False)


def closing_table(rows: Sequence[Row], seconds: float) -> None:
    """Everything observed."""
    table = Table("", "step", "expected", "observed", "ms", title="What was observed in this run")
    for row in rows:
        mark = "[green]ok[/]" if row.right else "[red]WRONG[/]"
        table.add_row(mark, row.step, row.expected, row.observed, "" if row.took is None else f"{row.took * 1000:.0f}")
    _console.print()
    _console.print(table)
    wrong = sum(not row.right for row in rows)
    _console.print(f"{len(rows) - wrong} of {len(rows)} right, in {seconds:.1f} s.")
