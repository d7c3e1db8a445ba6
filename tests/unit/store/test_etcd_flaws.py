"""Releases of etcd that do not hold users to their rights are known by name."""

from __future__ import annotations

import pytest

from meshagent.store.etcd_flaws import FLAWS, rights_problem, version_of

NESTED, PREVIOUS, ENDLESS = (flaw.name for flaw in FLAWS)


@pytest.mark.parametrize(
    ("version", "flaws"),
    [
        ("3.3.27", {NESTED, PREVIOUS, ENDLESS}),
        ("3.4.23", {NESTED, PREVIOUS, ENDLESS}),
        ("3.4.42", {PREVIOUS, ENDLESS}),
        ("3.4.99", {PREVIOUS, ENDLESS}),
        ("3.5.1", {NESTED, PREVIOUS, ENDLESS}),
        ("3.5.28", {PREVIOUS, ENDLESS}),
        ("3.5.30", {ENDLESS}),
        ("3.5.33", set()),
        ("3.6.9", {PREVIOUS, ENDLESS}),
        ("3.6.11", {ENDLESS}),
        ("3.6.14", set()),
        ("3.7.0", {ENDLESS}),
        ("3.7.0-rc.1", {ENDLESS}),
        ("3.7.1", set()),
        ("3.8.0", set()),
        ("4.0.0", set()),
        ("not a version", {NESTED, PREVIOUS, ENDLESS}),
    ],
)
def test_each_release_is_told_its_flaws_and_what_mends_them(version: str, flaws: set[str]) -> None:
    problem = rights_problem(version)

    assert {name for name in (NESTED, PREVIOUS, ENDLESS) if name in problem} == flaws
    assert bool(problem) == bool(flaws)
    assert not flaws or ("3.5.33" in problem and "policy_public_keys" in problem)


def test_versions_are_read_as_etcd_writes_them() -> None:
    assert (version_of("3.5.1"), version_of("3.6.0-rc.2"), version_of("3.5.9+git")) == ((3, 5, 1), (3, 6, 0), (3, 5, 9))
    assert version_of("") == ()
