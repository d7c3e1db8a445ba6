"""Paths as the destination's Envoy judges them. Each right-hand side was read at an app behind the real Envoy 1.40."""

from __future__ import annotations

import pytest

from meshagent.policy.request import Malformed, judged_path


@pytest.mark.parametrize(
    ("sent", "judged"),
    [
        ("/", "/"),
        ("/a//b/../c?x=/..", "/a/c"),
        ("/x/../../admin", "/admin"),
        ("/x/.", "/x/"),
        ("/x/..", "/"),
        ("/x//../admin", "/x/admin"),
        ("/%61dmin", "/admin"),
        ("/x/%2e%2e/admin", "/admin"),
        ("/x\\..\\admin", "/admin"),
        ("/x/..;/y", "/y"),
        ("/x/..;a/y", "/y"),
        ("/x/.;/y", "/x/y"),
        ("/x/..;", "/"),
        ("/x/..;a\\y", "/"),
        ("/x\\..;a/y", "/x/..;a/y"),
        ("/x/.;%00/y", "/x/y"),
        ("/x/...;/y", "/x/...;/y"),
        ("/x/%2e%2e;/y", "/x/..;/y"),
        ("/x/..%3b/y", "/x/..%3b/y"),
        ("/a|b", "/a%7Cb"),
        ("/{x}", "/%7Bx%7D"),
        ("/%5e", "/%5e"),
        ("/a%zz", "/a%zz"),
        ("/%7e/%2d", "/~/-"),
    ],
)
def test_a_path_is_normalised(sent, judged):
    assert judged_path(sent) == judged


@pytest.mark.parametrize("sent", ["", "admin", "*", "/a#b", "/x%2fy", "/x%5Cy", "/%00", "/a b", "/\u00e9", "/a\tb"])
def test_a_path_that_is_refused_before_any_rule(sent):
    assert isinstance(judged_path(sent), Malformed)
