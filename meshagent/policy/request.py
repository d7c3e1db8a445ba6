"""A request as the destination's proxy judges it, so that `explain` and Envoy see the same thing.

The rules are those of the hardened listener that translate/ builds: path normalisation, merged slashes, escaped slashes and
header names with underscores refused (measured in the attack tests against the real Envoy).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_ESCAPED_SLASH = re.compile(r"%2f|%5c", re.IGNORECASE)
_UNRESERVED = re.compile(r"%(2d|2e|3[0-9]|4[1-9a-f]|5[0-9a]|5f|6[1-9a-f]|7[0-9a]|7e)", re.IGNORECASE)

_DOTS_WITH_PARAMETERS = re.compile(
    r"^(\.{1,2});.*$"
)  # `..;x` goes up as `..` does; `%2e%2e;` does not (measured, Envoy 1.40)
_ENCODED = re.compile(r"[\"<>^`{|}]")  # written raw, they are percent-encoded


@dataclass(frozen=True, slots=True)
class Request:
    """What a caller sends. Header names are lower case; a name may occur several times."""

    method: str = "GET"
    path: str = "/"
    headers: tuple[tuple[str, str], ...] = ()

    def values(self, name: str) -> tuple[str, ...]:
        """Every value of a header, in order, as it came."""
        return tuple(value.strip(" \t") for key, value in self.headers if key == name)


@dataclass(frozen=True, slots=True)
class Malformed:
    """The proxy answers 400 before any intention is looked at."""

    reason: str


def judged_path(raw: str) -> str | Malformed:
    """The path that rules are compared with: normalised, without query; or why the proxy refuses the request."""
    path = raw.partition("?")[0]
    if "#" in raw:
        return Malformed("a fragment in the path")
    if not path.startswith("/"):
        return Malformed("a path that does not begin with /")
    if any(not 0x21 <= ord(character) <= 0x7E for character in raw):
        return Malformed("a character in the path that must be percent-encoded")
    if _ESCAPED_SLASH.search(path):
        return Malformed("an escaped slash in the path")
    path = "/".join(_DOTS_WITH_PARAMETERS.sub(r"\1", segment) for segment in path.split("/")).replace("\\", "/")
    if "%00" in path:  # the parameters of a dot segment, which are dropped, may hold one
        return Malformed("an escaped NUL in the path")
    path = _UNRESERVED.sub(lambda match: chr(int(match[1], 16)), path)
    path = _ENCODED.sub(lambda match: f"%{ord(match[0]):02X}", path)
    return re.sub(r"/{2,}", "/", _without_dots(path))


def _without_dots(path: str) -> str:
    """RFC 3986, section 5.2.4, as Envoy's normalisation does it: `//` counts as a segment of its own here."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for position, segment in enumerate(segments):
        last = position == len(segments) - 1
        if segment == "..":
            if kept:
                kept.pop()
        elif segment != ".":
            kept.append(segment)
            continue
        if last:
            kept.append("")
    return "/" + "/".join(kept)


def refused_header(request: Request) -> str | None:
    """The first header name that the proxy refuses (an underscore could pass for a dash behind it), or None."""
    return next((name for name, _ in request.headers if "_" in name), None)
