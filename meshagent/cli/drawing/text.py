"""The graph as text of at most 80 columns, and in the language of Graphviz."""

from __future__ import annotations

from collections.abc import Iterator

from meshagent.cli.drawing.graph import Graph, Health, words
from meshagent.model.edges import EdgeRate

_WIDTH = 80
_COLOURS: dict[Health, str] = {"passing": "#2e7d32", "degraded": "#b26a00", "failing": "#c62828", "unknown": "#607d8b"}
_WRONG, _FINE = "#c62828", "#455a64"
_MANY = 0.05  # a share of errors that is shown as such


def as_text(graph: Graph) -> str:
    """Each service with those that it calls."""
    called: dict[str, list[EdgeRate]] = {node.name: [] for node in graph.nodes}
    for edge in graph.edges:
        called[edge.source].append(edge)
    lines: list[str] = []
    for node in graph.nodes:
        about = f"{node.name}  {node.words}".rstrip()
        lines.append(about if node.health in ("passing", "unknown") else f"{about}  {node.health}")
        width = max((len(edge.destination) for edge in called[node.name]), default=0)
        for edge in called[node.name]:
            lines += _folded(f"  -> {edge.destination.ljust(width)}  ", words(edge))
    return "\n".join(lines)


def as_dot(graph: Graph) -> str:
    """A digraph for Graphviz."""
    return "\n".join(["digraph mesh {", *(f"  {line}" for line in _statements(graph)), "}"])


def colour(health: Health) -> str:
    """Of a node."""
    return _COLOURS[health]


def edge_colour(edge: EdgeRate) -> str:
    """Red where more than 5 % of the calls fail."""
    return _WRONG if edge.error_ratio > _MANY else _FINE


def quoted(text: str) -> str:
    """A string of the DOT language, in which a backslash would begin an escape of a label."""
    shown = text.replace("\\", "\\\\").replace('"', '\\"').replace("\r", "\\\\r").replace("\n", "\\n")
    return f'"{shown}"'


def _statements(graph: Graph) -> Iterator[str]:
    yield "rankdir=LR;"
    yield 'node [shape=box, style=rounded, fontname="sans-serif"];'
    yield 'edge [fontname="sans-serif", fontsize=10];'
    for node in graph.nodes:
        label = quoted(f"{node.name}\n{node.words}" if node.words else node.name)
        dashed = ', style="rounded,dashed"' if node.kind != "service" else ""
        yield f"{quoted(node.name)} [label={label}, color={quoted(colour(node.health))}{dashed}];"
    for edge in graph.edges:
        ends = f"{quoted(edge.source)} -> {quoted(edge.destination)}"
        yield f"{ends} [label={quoted(words(edge))}, color={quoted(edge_colour(edge))}];"


def _folded(head: str, text: str) -> list[str]:
    """One line, or where it is too long the text below the head."""
    return [head + text] if len(head) + len(text) <= _WIDTH else [head.rstrip(), f"       {text}"]
