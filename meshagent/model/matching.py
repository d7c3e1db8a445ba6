"""Conditions on requests that routes may name. Unlike those of intentions they choose a way and never forbid one."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from meshagent.model.intention import Method, Path, Regex
from meshagent.model.names import Model, ServiceName

_TOKEN = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, section 5.6.2, in lower case
_GRPC_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")


def _check_header(text: str) -> str:
    if not _TOKEN.fullmatch(text):
        raise ValueError("must be a header name in lower case")
    return text


def _check_text(text: str) -> str:
    if any(not " " <= letter <= "~" for letter in text):
        raise ValueError("must be visible ASCII")
    return text


def _check_cookie(text: str) -> str:
    if any(letter in ' ",;\\' for letter in text):
        raise ValueError("must not hold a blank, a quote, a comma, a semicolon or a backslash, as no cookie does")
    return text


def _check_grpc(text: str) -> str:
    if not _GRPC_NAME.fullmatch(text):
        raise ValueError("must be a name such as shop.v1.Cart")
    return text


HeaderKey = Annotated[str, Field(max_length=128), AfterValidator(_check_header)]
Text = Annotated[str, Field(max_length=1024), AfterValidator(_check_text)]
CookieText = Annotated[str, Field(max_length=1024), AfterValidator(_check_text), AfterValidator(_check_cookie)]
Part = Annotated[Text, Field(min_length=1)]
GrpcName = Annotated[str, Field(max_length=256), AfterValidator(_check_grpc)]
Region = Annotated[str, Field(min_length=1, max_length=63)]


_MATCHERS = ("exact", "prefix", "suffix", "regex", "present")


class _Named(Model):
    """One named value of a request; without a matcher it must be present."""

    exact: Text | None = None
    prefix: Part | None = None
    suffix: Part | None = None
    present: bool | None = None

    @model_validator(mode="after")
    def _one_matcher(self) -> Self:
        known = [name for name in _MATCHERS if name in type(self).model_fields]
        given = [name for name in known if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"takes one of {', '.join(known[:-1])} and {known[-1]}, not {' and '.join(given)}")
        return self


class RouteHeader(_Named):
    """A condition on a request header, of which any value may meet it. `invert`: it must not hold; absent is empty then."""

    name: HeaderKey
    regex: Regex | None = None
    invert: bool = False


class QueryParameter(_Named):
    """A condition on a query parameter, of which the first value counts, as it is written in the URL."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._~!$'()*,;:@/?-]{1,128}$")]
    regex: Regex | None = None


class Cookie(_Named):
    """A condition on a cookie, of which any value may meet it. No regex: it could not be kept from reading the next one."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$")]
    exact: CookieText | None = None
    prefix: Annotated[CookieText, Field(min_length=1)] | None = None
    suffix: Annotated[CookieText, Field(min_length=1)] | None = None


class GrpcCall(Model):
    """A gRPC service, or one method of it."""

    service: GrpcName
    method: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")] | None = None


_WHO = ("sources", "regions")


class RouteMatch(Model):
    """What a request must look like, and who makes it: every condition, of `methods`, `sources` and `regions` one.

    `sources` and `regions` are the callers' services and where their hosts stand. Paths are compared as intentions' are.
    """

    path_exact: Path | None = None
    path_prefix: Path | None = None
    path_regex: Regex | None = None
    ignore_case: bool = False
    methods: tuple[Method, ...] = ()
    headers: tuple[RouteHeader, ...] = ()
    query: tuple[QueryParameter, ...] = ()
    cookies: tuple[Cookie, ...] = ()
    grpc: GrpcCall | None = None
    sources: tuple[ServiceName, ...] = ()
    regions: tuple[Region, ...] = ()

    @model_validator(mode="after")
    def _one_path(self) -> Self:
        given = [name for name in ("path_exact", "path_prefix", "path_regex", "grpc") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"takes one of path_exact, path_prefix, path_regex and grpc, not {' and '.join(given)}")
        if self.ignore_case and given not in (["path_exact"], ["path_prefix"]):
            raise ValueError("ignore_case needs path_exact or path_prefix (a regex begins with (?i) for that)")
        return self

    @property
    def by_request(self) -> bool:
        """Whether anything of an HTTP request is looked at."""
        return any(getattr(self, name) for name in type(self).model_fields if name not in _WHO)

    @property
    def whole_path(self) -> bool:
        """Whether it names a path of which no part can be told apart."""
        return any((self.path_exact, self.path_regex, self.grpc))
