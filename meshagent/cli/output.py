"""What commands print. Data goes to stdout as a table, JSON or YAML with the same field names; words go to stderr.

Colour only on a terminal, and never with NO_COLOR. What comes from the store or an agent cannot move the cursor:
control characters are shown as escapes.
"""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, TextIO

import click

from meshagent.errors import MeshError

Form = Literal["table", "json", "yaml"]
FORMS: tuple[Form, ...] = ("table", "json", "yaml")

_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_GAP = "  "


class ReaderGone(Exception):
    """Nobody reads stdout any more: the other end of the pipe has what it wanted."""


class Table(NamedTuple):
    """Rows of text under their titles."""

    titles: Sequence[str]
    rows: Sequence[Sequence[object]]


def show(value: Any, form: Form, *parts: str | Table) -> None:
    """Print data: `value` as JSON or YAML, or `parts`, which say the same to a person. Raises MeshError."""
    if form == "json":
        emit(to_json(value))
    elif form == "yaml":
        emit(to_yaml(value).removesuffix("\n"))
    else:
        for part in parts:
            _show_part(part)


def emit(text: str) -> None:
    """One text and a line end on stdout. Raises ReaderGone, and MeshError for any other failure."""
    try:
        click.echo(text, color=_coloured(sys.stdout))
    except BrokenPipeError:
        raise ReaderGone from None
    except OSError as error:
        raise MeshError(f"the output cannot be written: {error.strerror}") from None


def say(text: str) -> None:
    """Words for the person, on stderr."""
    click.echo(printable(text), err=True)


def warn(text: str) -> None:
    """A warning on stderr."""
    _marked("warning", "yellow", text)


def fail(message: str, next_step: str = "") -> None:
    """An error and what to do about it, on stderr; either may be empty."""
    if message:
        _marked("error", "red", message)
    if next_step:
        _marked("next", "cyan", next_step)


def printable(text: str) -> str:
    """The text with every control character but the line end as an escape."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(each if _is_printable(each) else each.encode("unicode_escape").decode() for each in text)


def to_json(value: Any) -> str:
    """Plain data as JSON; what is not printable is escaped also where JSON would take it as it is."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return text if printable(text) == text else json.dumps(value, indent=2)


def to_yaml(value: Any) -> str:
    """Plain data as YAML, its fields in the order that they have; what is not printable is escaped."""
    import yaml

    shape: dict[str, Any] = {"sort_keys": False, "default_flow_style": False, "width": 110}
    text = str(yaml.safe_dump(value, allow_unicode=True, **shape))
    return text if printable(text) == text else str(yaml.safe_dump(value, **shape))


def cell(value: object) -> str:
    """A value as a table shows it: nothing for None, words for truth, lists and mappings on one line."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name}={cell(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(cell(each) for each in value)
    return printable(str(value)).replace("\n", " ")


def plain_table(table: Table) -> str:
    """Columns of even width, without colour: for pipes and files."""
    rows = [[cell(title) for title in table.titles], *([cell(each) for each in row] for row in table.rows)]
    widths = [max(len(row[index]) for row in rows) for index in range(len(table.titles))]
    return "\n".join(_GAP.join(_padded(row, widths)).rstrip() for row in rows)


def _padded(row: Sequence[str], widths: Sequence[int]) -> Iterable[str]:
    return (text.ljust(width) for text, width in zip(row, widths, strict=True))


def _show_part(part: str | Table) -> None:
    if isinstance(part, str):
        emit(printable(part))
    elif part.rows and _on_terminal(sys.stdout):
        _show_rich(part)
    elif part.rows:
        emit(plain_table(part))


def _show_rich(table: Table) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(box=None, pad_edge=False, header_style="bold")
    for title in table.titles:
        shown.add_column(title, overflow="fold")
    for row in table.rows:
        shown.add_row(*(Text(cell(each)) for each in row))
    Console(no_color=not _coloured(sys.stdout), highlight=False).print(shown)


def _marked(mark: str, colour: str, text: str) -> None:
    head = click.style(f"{mark}:", fg=colour, bold=True) if _coloured(sys.stderr) else f"{mark}:"
    click.echo(f"{head} {printable(text)}", err=True)


def _is_printable(character: str) -> bool:
    return character == "\n" or unicodedata.category(character) not in _UNPRINTABLE


def _on_terminal(stream: TextIO) -> bool:
    return stream.isatty()


def _coloured(stream: TextIO) -> bool:
    return _on_terminal(stream) and not os.environ.get("NO_COLOR")
