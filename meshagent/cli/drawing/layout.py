"""Where the nodes of a graph stand: in columns, callers before those whom they call, with few crossings.

A small form of Sugiyama's method: cycles are opened where a walk comes back to where it is, each node stands one column
after its last caller, and the order in a column follows the mean place of the neighbours, to and fro a few times.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

Pair = tuple[str, str]
_SWEEPS = 8


def columns(names: Sequence[str], pairs: Iterable[Pair]) -> list[list[str]]:
    """The names, in columns from left to right, each from top to bottom. Every pair must be of two of the names."""
    forward = opened(names, [pair for pair in pairs if pair[0] != pair[1]])
    places = _ranks(names, forward)
    found: list[list[str]] = [[] for _ in range(max(places.values(), default=-1) + 1)]
    for name in names:
        found[places[name]].append(name)
    for sweep in range(_SWEEPS):
        _sort_once(found, forward, backwards=bool(sweep % 2))
    return found


def opened(names: Sequence[str], pairs: Iterable[Pair]) -> set[Pair]:
    """The pairs without a cycle: what leads back into a walk is turned round."""
    called: dict[str, list[str]] = {name: [] for name in names}
    for source, destination in pairs:
        called[source].append(destination)
    forward: set[Pair] = set()
    done: set[str] = set()
    for start in sorted(names, key=lambda name: any(name in each for each in called.values())):
        walk = [(start, iter(called[start]))] if start not in done else []
        while walk:
            source, rest = walk[-1]
            for destination in rest:
                if any(destination == name for name, _ in walk):
                    forward.add((destination, source))
                    continue
                forward.add((source, destination))
                if destination not in done:
                    walk.append((destination, iter(called[destination])))
                    break
            else:
                walk.pop()
                done.add(source)
    return forward


def _ranks(names: Sequence[str], forward: set[Pair]) -> dict[str, int]:
    """The column of each name: one after the last of its callers."""
    ranks = dict.fromkeys(names, 0)
    for _ in names:
        moved = False
        for source, destination in forward:
            if ranks[destination] <= ranks[source]:
                ranks[destination], moved = ranks[source] + 1, True
        if not moved:
            break
    return ranks


def _sort_once(found: list[list[str]], forward: set[Pair], *, backwards: bool) -> None:
    """Put each column in the order of the mean place of those before it, or backwards of those after it."""
    near: dict[str, list[str]] = {}
    for source, destination in sorted(forward):
        one, other = (source, destination) if backwards else (destination, source)
        near.setdefault(one, []).append(other)
    places: dict[str, float] = {name: _share(index, column) for column in found for index, name in enumerate(column)}
    for column in reversed(found) if backwards else found:
        column.sort(key=lambda name: (_mean(near.get(name, ()), places, places[name]), name))
        places.update({name: _share(index, column) for index, name in enumerate(column)})


def _share(index: int, column: Sequence[str]) -> float:
    """How far down it stands, 0 to 1."""
    return (index + 0.5) / len(column)


def _mean(names: Sequence[str], places: Mapping[str, float], otherwise: float) -> float:
    return sum(places[name] for name in names) / len(names) if names else otherwise
