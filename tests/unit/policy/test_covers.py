"""covers: which match has all that another one has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshagent.model.intention import HttpMatch
from meshagent.model.matching import RouteMatch
from meshagent.policy.covers import covers, covers_route
from meshagent.policy.request import Request
from meshagent.policy.routing import matches


@pytest.mark.parametrize(
    ("wide", "narrow", "wanted"),
    [
        ({"path_prefix": "/a"}, {"path_prefix": "/a/b"}, True),
        ({"path_prefix": "/a"}, {"path_prefix": "/ab"}, False),
        ({"path_prefix": "/a"}, {"path_exact": "/a"}, True),
        ({"path_prefix": "/a"}, {"path_regex": "/a/x.*"}, False),
        ({"path_prefix": "/"}, {"path_regex": "/x.*"}, True),
        ({"path_exact": "/a"}, {"path_prefix": "/a"}, False),
        ({"path_exact": "/A", "ignore_case": True}, {"path_exact": "/a"}, True),
        ({"path_exact": "/a"}, {"path_exact": "/a", "ignore_case": True}, False),
        ({"methods": ["GET", "POST"]}, {"methods": ["GET"], "path_prefix": "/"}, True),
        ({"methods": ["GET"]}, {"path_prefix": "/"}, False),
        ({"path_prefix": "/", "headers": [{"name": "x"}]}, {"path_prefix": "/a"}, False),
        ({"path_prefix": "/"}, {"path_prefix": "/a", "headers": [{"name": "x"}]}, True),
    ],
)
def test_what_covers_what(wide, narrow, wanted):
    assert covers(HttpMatch.model_validate(wide), HttpMatch.model_validate(narrow)) is wanted


@pytest.mark.parametrize(
    ("wide", "narrow", "wanted"),
    [
        ({}, {"path_prefix": "/a"}, True),
        ({"path_prefix": "/"}, {"headers": [{"name": "x"}]}, True),
        ({"headers": [{"name": "x"}]}, {"headers": [{"name": "x", "exact": "1"}]}, False),
        ({"cookies": [{"name": "b"}]}, {"cookies": [{"name": "b"}], "query": [{"name": "q"}]}, True),
        ({"sources": ["web"]}, {}, False),
        ({"sources": ["web", "app"]}, {"sources": ["web"]}, True),
        ({"regions": ["eu"]}, {"regions": ["us"]}, False),
        ({"grpc": {"service": "a.B"}}, {"grpc": {"service": "a.B", "method": "C"}}, True),
        ({"grpc": {"service": "a.B", "method": "C"}}, {"grpc": {"service": "a.B"}}, False),
        ({"path_prefix": "/"}, {"grpc": {"service": "a.B"}}, True),
        ({"path_prefix": "/a.B"}, {"grpc": {"service": "a.B"}}, False),
    ],
)
def test_what_covers_what_on_routes(wide, narrow, wanted):
    assert covers_route(RouteMatch.model_validate(wide), RouteMatch.model_validate(narrow)) is wanted


PATHS = st.sampled_from(("/", "/a", "/A", "/a/b", "/ab", "/a/"))
CONDITIONS = st.fixed_dictionaries(
    {
        "methods": st.sampled_from(((), ("GET",), ("GET", "POST"))),
        "headers": st.sampled_from(((), ({"name": "x"},), ({"name": "x", "exact": "1"},))),
    }
)
MATCHES = st.one_of(
    CONDITIONS,
    st.builds(
        lambda rest, kind, path, blind: rest | {kind: path, "ignore_case": blind},
        CONDITIONS,
        st.sampled_from(("path_exact", "path_prefix")),
        PATHS,
        st.booleans(),
    ),
).map(RouteMatch.model_validate)
REQUESTS = st.builds(
    Request, st.sampled_from(("GET", "POST", "PUT")), PATHS, st.sampled_from(((), (("x", "1"),), (("x", "2"),)))
)


@given(MATCHES, MATCHES, REQUESTS)
def test_what_is_covered_is_matched_whenever_the_narrow_one_is(wide, narrow, request):
    if covers_route(wide, narrow) and matches(narrow, request):
        assert matches(wide, request)
