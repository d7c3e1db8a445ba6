"""Paths of requests -> patterns of them, and the conditions that match exactly these. Pure.

A segment that looks like an id becomes `*`, which stands for any one segment: digits alone; a UUID; 8 or more hex digits,
or 20 or more characters, with a digit among them; and whatever holds `@`, `%` or `*`. So do the names at one place of
otherwise equal paths when there are more than 20 of them. Where there is still more than a bound, what is behind the first
segment is left open (`/first/**`), then everything (`/**`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable

from meshagent.model.intention import HttpMatch

ANY_SEGMENT, REST = "*", "**"
LONGEST = 256  # characters of a path; what is longer is left open behind its first segment
_ALIKE = 20  # names at one place that are still told apart
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_HEX = re.compile(r"[0-9a-f]{8,}", re.IGNORECASE)


def pattern_of(path: str) -> str:
    """The pattern of one path, as a proxy judges it: normalised, without its query."""
    if len(path) > LONGEST:
        return _opened(path)
    return "/".join(ANY_SEGMENT if _is_id(segment) else segment for segment in path.split("/"))


def merged(patterns: Collection[str], most: int) -> dict[str, str]:
    """Each pattern with the one that stands for it, so that at most `most` are left (1 at least)."""
    found = {each: each for each in patterns}
    while pairs := _crowded(set(found.values())):
        found = {each: pairs.get(now, now) for each, now in found.items()}
    for wider in (_opened, lambda _: f"/{REST}"):
        if len(set(found.values())) > most:
            found = {each: wider(now) for each, now in found.items()}
    return found


def match_of(methods: Iterable[str], pattern: str) -> HttpMatch:
    """What matches requests with one of the methods whose path is of the pattern, and no others."""
    wanted, segments = tuple(sorted(methods)), pattern.split("/")
    below = segments[-1] == REST
    parts = segments[:-1] if below else segments
    if ANY_SEGMENT in parts:
        regex = "/".join("[^/]+" if part == ANY_SEGMENT else re.escape(part) for part in parts)
        return HttpMatch(methods=wanted, path_regex=f"{regex}(/.*)?" if below else regex)
    if below:
        return HttpMatch(methods=wanted, path_prefix="/".join(parts) or "/")
    return HttpMatch(methods=wanted, path_exact=pattern)


def example_of(pattern: str) -> str:
    """A path of the pattern."""
    return "/".join("0" if segment in (ANY_SEGMENT, REST) else segment for segment in pattern.split("/"))


def _is_id(segment: str) -> bool:
    if any(letter in segment for letter in "@%*"):
        return True
    digits = any(letter.isdigit() for letter in segment)
    return digits and (
        segment.isdigit() or len(segment) >= 20 or bool(_UUID.fullmatch(segment) or _HEX.fullmatch(segment))
    )


def _opened(path: str) -> str:
    first = path.split("/")[1][:LONGEST]
    return f"/{first}/{REST}" if first and first not in (ANY_SEGMENT, REST) else f"/{REST}"


def _crowded(patterns: set[str]) -> dict[str, str]:
    """Patterns that differ at one place alone, where more names stand than are told apart -> the one for all of them."""
    places: dict[tuple[int, tuple[str, ...]], set[str]] = defaultdict(set)
    for pattern in patterns:
        segments = pattern.split("/")
        for number, segment in enumerate(segments):
            if number and segment and segment not in (ANY_SEGMENT, REST):
                rest = (*segments[:number], ANY_SEGMENT, *segments[number + 1 :])
                places[number, rest].add(pattern)
    crowd = max(places.items(), key=lambda each: (len(each[1]), each[0]), default=None)
    if crowd is None or len(crowd[1]) <= _ALIKE:
        return {}
    return dict.fromkeys(crowd[1], "/".join(crowd[0][1]))
