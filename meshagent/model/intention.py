"""Who may call whom. An intention document belongs to one destination; each source in it is one intention."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, AwareDatetime, Field, field_validator, model_validator

from meshagent.model.names import Model, ServiceOrAny

Action = Literal["allow", "deny"]
DefaultAction = Literal["allow", "deny", "shadow-deny"]
"""`shadow-deny` lets pass, as `allow` does, and counts and logs what `deny` would refuse."""

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, section 5.6.2


def _check_method(text: str) -> str:
    if not _TOKEN.fullmatch(text) or text != text.upper():
        raise ValueError("must be an HTTP method in upper case, such as GET")
    return text


def _check_header_name(text: str) -> str:
    if not _TOKEN.fullmatch(text) or text != text.lower():
        raise ValueError("must be a header name in lower case")
    if text in ("host", "authority"):
        raise ValueError(
            "cannot be decided on: clients write Host in many ways that mean the same (use paths or sources)"
        )
    return text


def _check_path(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError("must begin with /")
    if any(bad in text for bad in ("?", "#", "//", "/./", "/../")) or text.endswith(("/.", "/..")):
        raise ValueError("must be a normalised path without query: Envoy normalises the request before it is compared")
    return text


def _check_regex(text: str) -> str:
    try:
        with warnings.catch_warnings(action="ignore"):  # of Python's own future, which is not RE2's
            re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    if re.search(r"\(\?[=!<]|\\[1-9]", text):
        raise ValueError("uses look-around or a back-reference, which RE2 (Envoy's engine) does not know")
    return text


Method = Annotated[str, AfterValidator(_check_method)]
HeaderName = Annotated[str, AfterValidator(_check_header_name)]
Path = Annotated[str, AfterValidator(_check_path)]
Regex = Annotated[str, AfterValidator(_check_regex)]


def _check_header_text(text: str) -> str:
    if "," in text:
        raise ValueError("must not hold a comma: a list of values is compared value by value")
    if any(not " " <= letter <= "~" for letter in text) or text != text.strip():
        raise ValueError("must be visible ASCII without blanks at its ends")
    return text


HeaderText = Annotated[str, Field(max_length=256), AfterValidator(_check_header_text)]


class HeaderMatch(Model):
    """A condition on one request header; without a matcher the header must be present.

    A header may come several times, or as a list with commas. An allow needs every value to match, and none to be a list;
    for a deny one matching value is enough. So an extra value never widens what is allowed (attack test 4).
    """

    name: HeaderName
    exact: HeaderText | None = None
    prefix: Annotated[HeaderText, Field(min_length=1)] | None = None
    suffix: Annotated[HeaderText, Field(min_length=1)] | None = None
    present: bool | None = None
    invert: bool = False

    @model_validator(mode="after")
    def _one_matcher(self) -> Self:
        given = [name for name in ("exact", "prefix", "suffix", "present") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"takes one of exact, prefix, suffix and present, not {' and '.join(given)}")
        return self


class HttpMatch(Model):
    """What a request must look like. Every condition given must hold; one of the methods is enough."""

    methods: tuple[Method, ...] = ()
    path_exact: Path | None = None
    path_prefix: Path | None = None
    path_regex: Regex | None = None
    ignore_case: bool = False
    headers: tuple[HeaderMatch, ...] = ()

    @model_validator(mode="after")
    def _one_path(self) -> Self:
        given = [name for name in ("path_exact", "path_prefix", "path_regex") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"takes one of path_exact, path_prefix and path_regex, not {' and '.join(given)}")
        if not given and not self.methods and not self.headers:
            raise ValueError("needs a condition: methods, path_exact, path_prefix, path_regex or headers")
        return self


class Permission(Model):
    """The L7 part of an intention. The first permission that matches decides; when none matches, it is a deny."""

    action: Action
    http: HttpMatch


class IntentionSource(Model):
    """One source's intention: an action on everything, or permissions on requests.

    A shadow one is judged beside what is in force and decides nothing: what it would refuse is counted and logged.
    """

    name: ServiceOrAny
    action: Action | None = None
    permissions: tuple[Permission, ...] = ()
    expires_at: AwareDatetime | None = None
    reason: str = Field(default="", max_length=512)
    shadow: Annotated[bool, Field(strict=True)] = False

    @field_validator("expires_at", mode="before")
    @classmethod
    def _time_is_written_out(cls, value: object) -> object:
        """Pydantic would take digits, quoted or not, for seconds since 1970: `20270101` would be long past."""
        if value is None or isinstance(value, datetime):
            return value
        try:
            return datetime.fromisoformat(value if isinstance(value, str) else "")
        except ValueError:
            raise ValueError("must be a time with its zone, as in 2027-01-01T00:00:00Z") from None

    @model_validator(mode="after")
    def _action_or_permissions(self) -> Self:
        if (self.action is None) == (not self.permissions):
            raise ValueError("needs either action or permissions")
        return self

    @property
    def part(self) -> str:
        """What tells it from the others of its destination: in the names of rules, and where its origin is kept."""
        return f"{self.name}:shadow" if self.shadow else self.name


class Intention(Model):
    """All intentions of one destination (`name`; `*` is every destination).

    A source may have one that is in force, and beside it one in shadow.
    """

    kind: Literal["intention"] = "intention"
    name: ServiceOrAny
    sources: tuple[IntentionSource, ...] = ()

    @model_validator(mode="after")
    def _each_source_once(self) -> Self:
        parts = Counter((source.name, source.shadow) for source in self.sources)
        twice = sorted(name + (" in shadow" if shadow else "") for (name, shadow), count in parts.items() if count > 1)
        if twice:
            raise ValueError(f"names the source {', '.join(twice)} more than once")
        return self

    def source(self, name: str, *, shadow: bool = False) -> IntentionSource | None:
        """The intention of exactly this source name (no wildcard) that is in force, or that is in shadow."""
        return next((source for source in self.sources if (source.name, source.shadow) == (name, shadow)), None)
