"""Fails when a file or a function of meshagent outgrows what fits in a head; a function counts with its docstring."""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILE_LIMIT = 400
FUNCTION_LIMIT = 50


def functions(text: str) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, int]]:
    """Each function in a module's text, nested ones too, and its number of lines from `def` to its end."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node, (node.end_lineno or node.lineno) - node.lineno + 1


def main() -> None:
    """Prints what is too long, or one line on the sizes there are."""
    paths = sorted((ROOT / "meshagent").rglob("*.py"))
    problems: list[str] = []
    lengths: list[int] = []
    for path in paths:
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(ROOT)
        if (lines := len(text.splitlines())) > FILE_LIMIT:
            problems.append(f"{name}: {lines} lines, the limit is {FILE_LIMIT}: split it where its subject does")
        for function, length in functions(text):
            lengths.append(length)
            if length > FUNCTION_LIMIT:
                problems.append(f"{name}:{function.lineno}: {function.name} has {length} lines, not {FUNCTION_LIMIT}")
    if problems:
        sys.exit("\n".join(problems))
    sys.stdout.write(
        f"sizes: {len(paths)} files, {len(lengths)} functions, "
        f"median function {statistics.median(lengths):.0f} lines, longest {max(lengths)}\n"
    )


if __name__ == "__main__":
    main()
