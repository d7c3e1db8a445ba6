"""Conditions on requests as sets: what an authorization of another mesh allows is computed with them, then written down.

Each operation says whether its answer is exact. Where it is not, it errs so that less is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from meshagent.importing.parts import Data

Shape = Literal["exact", "prefix", "regex"]


@dataclass(frozen=True, slots=True)
class PathIs:
    """One kind of path. A prefix is plain text: it need not end at a segment."""

    shape: Shape
    text: str

    def data(self) -> Data:
        """As a field of an intention's permission. Our own prefixes end at segments, so plain ones become patterns."""
        if self.shape == "exact":
            return {"path_exact": self.text}
        if self.shape == "prefix" and self.text == "/":
            return {"path_prefix": "/"}
        if self.shape == "prefix":
            return {"path_regex": f"{quoted(self.text)}.*"}
        return {"path_regex": self.text}

    def both(self, other: PathIs) -> PathIs | None:
        """Paths that are of both kinds; None where there are none, or where they cannot be written down."""
        if self == other:
            return self
        for one, two in ((self, other), (other, self)):
            if one.shape == "exact":
                return one if two.holds(one.text) else None
        if self.shape == other.shape == "prefix":
            longer, shorter = sorted((self.text, other.text), key=len, reverse=True)
            return PathIs("prefix", longer) if longer.startswith(shorter) else None
        return None

    def holds(self, path: str) -> bool:
        """Whether a path is of this kind."""
        if self.shape == "regex":
            return re.fullmatch(self.text, path) is not None
        return path == self.text if self.shape == "exact" else path.startswith(self.text)


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests that meet every condition. None: no condition. Headers are as in a permission."""

    methods: frozenset[str] | None = None
    path: PathIs | None = None
    headers: tuple[tuple[str, str, str, bool], ...] = ()  # name, matcher, text, inverted

    @property
    def all(self) -> bool:
        """Whether it is every request."""
        return self == Requests()

    def both(self, other: Requests) -> Requests | None:
        """Requests that are in both; None where there are none, or where they cannot be written down."""
        methods = self.methods if other.methods is None else other.methods
        if self.methods is not None and other.methods is not None:
            methods = self.methods & other.methods
        path = self.path or other.path
        if self.path and other.path:
            path = self.path.both(other.path)
            if path is None:
                return None
        if methods is not None and not methods:
            return None
        return Requests(methods, path, tuple(dict.fromkeys(self.headers + other.headers)))

    def permission(self, action: Literal["allow", "deny"]) -> Data:
        """As a permission of an intention's source."""
        http: Data = {}
        if self.methods is not None:
            http["methods"] = sorted(self.methods)
        if self.path is not None or (self.methods is None and not self.headers):
            http |= (self.path or PathIs("prefix", "/")).data()
        if self.headers:
            http["headers"] = [_header(*each) for each in self.headers]
        return {"action": action, "http": http}


def _header(name: str, matcher: str, text: str, invert: bool) -> Data:
    data: Data = {"name": name, matcher: True if matcher == "present" else text}
    return {**data, "invert": True} if invert else data


def quoted(text: str) -> str:
    """The text as a pattern of RE2 that matches it alone."""
    return "".join(letter if letter.isalnum() or letter in "/_-" else f"\\{letter}" for letter in text)


@dataclass(frozen=True, slots=True)
class Clause:
    """Requests of `base` that are in none of `less`: what `notPaths` and `notMethods` mean."""

    base: Requests
    less: tuple[Requests, ...] = ()


def crossed(*choices: Iterable[Requests]) -> Iterator[Requests]:
    """Requests that meet one of each of the choices."""
    found: list[Requests] = [Requests()]
    for choice in choices:
        options = list(choice)
        found = [both for one in found for option in options if (both := one.both(option)) is not None]
    yield from dict.fromkeys(found)


def permissions(deny: Iterable[Clause], allow: Iterable[Clause]) -> tuple[list[Data], bool]:
    """Permissions in the order in which they are tried, and whether they say exactly what the clauses do.

    What is denied comes first; then one "deny all but", if there is one, with what is allowed of the exceptions before it.
    """
    denied, allowed = list(dict.fromkeys(deny)), list(dict.fromkeys(allow))
    plain = [each.base for each in allowed if not each.less]
    lessened = [each for each in allowed if each.less]
    narrowing = [each for each in denied if each.less]
    exact = len(narrowing) <= 1 and len(lessened) <= 1 and not (narrowing and lessened)
    found = [each.base.permission("deny") for each in (*(each for each in denied if not each.less), *narrowing[1:])]
    for each in narrowing[:1]:
        excepted, whole = _excepted(plain, each)
        exact = exact and whole
        found += [one.permission("allow") for one in excepted]
        found.append(each.base.permission("deny"))
    found += [each.permission("allow") for each in plain]
    for each in lessened:
        around = replace(each.base, path=None)
        found += [both.permission("deny") for less in each.less if (both := around.both(less)) is not None]
        found.append(each.base.permission("allow"))
    return _until_decided(found), exact


def _excepted(plain: Iterable[Requests], narrowing: Clause) -> tuple[list[Requests], bool]:
    """What is allowed of the exceptions of a "deny all but", and whether that is all of it."""
    inside = [one.both(narrowing.base) for one in plain]
    meant = [one.both(less) for one in inside if one for less in narrowing.less]
    whole = not narrowing.base.headers and all(one is not None for one in meant)
    return [one for one in dict.fromkeys(meant) if one is not None], whole


def _until_decided(found: list[Data]) -> list[Data]:
    """Without repetitions, and without what comes after a permission on everything; a deny at the end says nothing."""
    kept: list[Data] = []
    for each in found:
        if each not in kept:
            kept.append(each)
        if each["http"] == {"path_prefix": "/"}:
            break
    while kept and kept[-1]["action"] == "deny":
        kept.pop()
    return kept
