"""The graph as a picture that any browser shows, drawn here: no program and no server is asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from math import log10

from meshagent.cli.drawing.graph import Graph, Node, words
from meshagent.cli.drawing.layout import columns
from meshagent.cli.drawing.text import colour, edge_colour
from meshagent.model.edges import EdgeRate

_LETTER, _LINE = 7.5, 16  # pixels of 12 pt sans-serif, roughly
_HIGH, _GAP, _MARGIN = 44, 34, 24
_BETWEEN = 90  # between two columns at least, beside the longest words on an edge
_STYLE = (
    "text{font-family:sans-serif;font-size:12px;fill:#263238}.small{font-size:10px;fill:#37474f;paint-order:stroke;stroke:#fff;stroke-width:3px}"
    "rect{fill:#fff;stroke-width:2}path{fill:none}.dashed{stroke-dasharray:5 4}"
)
_ARROW = (
    '<marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" '
    'markerUnits="userSpaceOnUse" orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" style="fill:#455a64"/></marker>'
)
_AT = 0.62  # where on its line a label stands
Box = tuple[float, float, float]  # left, top, width
Point = tuple[float, float]


def as_svg(graph: Graph) -> str:
    """An SVG document."""
    boxes = placed(graph)
    right = max((left + width for left, _, width in boxes.values()), default=0.0) + _MARGIN
    bottom = max((top + _HIGH for _, top, _ in boxes.values()), default=0.0) + _MARGIN
    size = f'width="{right:.0f}" height="{bottom:.0f}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {right:.0f} {bottom:.0f}" role="img">',
        f"<title>Calls of the mesh</title><style>{_STYLE}</style><defs>{_ARROW}</defs>",
        *(_edge(edge, boxes) for edge in graph.edges),
        *(_node(node, boxes[node.name]) for node in graph.nodes),
        *(_label(edge, boxes) for edge in graph.edges),
        "</svg>",
    ]
    return "\n".join(lines)


def placed(graph: Graph) -> Mapping[str, Box]:
    """Where each node stands. No two boxes overlap."""
    about = {node.name: node for node in graph.nodes}
    found: dict[str, Box] = {}
    ordered = columns(tuple(about), [(edge.source, edge.destination) for edge in graph.edges])
    tallest = max((len(column) for column in ordered), default=0) * (_HIGH + _GAP)
    between = _BETWEEN + _LETTER * 0.85 * max((len(words(edge)) for edge in graph.edges), default=0)
    left = float(_MARGIN)
    for column in ordered:
        width = max(_width(about[name]) for name in column)
        top = _MARGIN + (tallest - len(column) * (_HIGH + _GAP)) / 2
        for name in column:
            found[name] = left, top, width
            top += _HIGH + _GAP
        left += width + between
    return found


def _width(node: Node) -> float:
    return max(len(node.name), 0.85 * len(node.words), 8) * _LETTER + 24


def _node(node: Node, box: Box) -> str:
    left, top, width = box
    middle, dashed = left + width / 2, ' class="dashed"' if node.kind != "service" else ""
    name_at = top + (_HIGH + 8) / 2 - (_LINE / 2 if node.words else 0)
    frame = f'x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{_HIGH}" rx="7"'
    parts = [
        f'<rect {frame} stroke="{colour(node.health)}"{dashed}/>',
        f'<text x="{middle:.1f}" y="{name_at:.1f}" text-anchor="middle">{escape(node.name)}</text>',
    ]
    if node.words:
        below = f'x="{middle:.1f}" y="{name_at + _LINE:.1f}"'
        parts.append(f'<text class="small" {below} text-anchor="middle">{escape(node.words)}</text>')
    return f"<g><title>{escape(node.name)}: {node.health}</title>{''.join(parts)}</g>"


def _edge(edge: EdgeRate, boxes: Mapping[str, Box]) -> str:
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = _line(edge, boxes)
    path = f"M{x0:.1f} {y0:.1f}C{x1:.1f} {y1:.1f} {x2:.1f} {y2:.1f} {x3:.1f} {y3:.1f}"
    width = 1 + min(3.0, log10(1 + max(edge.rps, edge.connections_per_s)))
    return f'<path d="{path}" stroke="{edge_colour(edge)}" stroke-width="{width:.1f}" marker-end="url(#arrow)"/>'


def _label(edge: EdgeRate, boxes: Mapping[str, Box]) -> str:
    """What happens on the edge, nearer to its end than to its begin: calls of one service part on the way."""
    x, y = (
        (1 - _AT) ** 3 * p0 + 3 * (1 - _AT) ** 2 * _AT * p1 + 3 * (1 - _AT) * _AT**2 * p2 + _AT**3 * p3
        for p0, p1, p2, p3 in zip(*_line(edge, boxes), strict=True)
    )
    return f'<text class="small" x="{x:.1f}" y="{y - 5:.1f}" text-anchor="middle">{escape(words(edge))}</text>'


def _line(edge: EdgeRate, boxes: Mapping[str, Box]) -> tuple[Point, ...]:
    """The four points of a Bezier curve."""
    source, destination = boxes[edge.source], boxes[edge.destination]
    return tuple(_bow(source) if edge.source == edge.destination else _curve(source, destination))


def _curve(source: Box, destination: Box) -> Iterator[Point]:
    """From the right side of one to the left side of the other; back over the tops where it leads to the left."""
    (left, top, width), (to, level, far) = source, destination
    if to > left:
        begin, end = (left + width, top + _HIGH / 2), (to, level + _HIGH / 2)
        bend = max(40.0, (end[0] - begin[0]) / 2)
        yield from (begin, (begin[0] + bend, begin[1]), (end[0] - bend, end[1]), end)
    else:
        begin, end = (left + width / 2, top), (to + far / 2, level)
        yield from (begin, (begin[0], begin[1] - _GAP), (end[0], end[1] - _GAP), end)


def _bow(box: Box) -> Iterator[Point]:
    """Of a service that calls itself."""
    left, top, width = box
    yield from (
        (left + width * 0.35, top),
        (left + width * 0.2, top - _GAP),
        (left + width * 0.8, top - _GAP),
        (left + width * 0.65, top),
    )
