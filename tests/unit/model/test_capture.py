"""Whose connections a service's are: one user or one cgroup, of names that nft takes as they are."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from meshagent.model.service import Capture, ServiceDefinition

WEB = {"name": "web", "port": 8080, "upstreams": [{"service": "api"}]}


@pytest.mark.parametrize("told", [{"user": "web"}, {"user": 1001}, {"cgroup": "system.slice/web@1.service"}])
def test_a_captured_service_needs_no_port_for_its_upstreams(told):
    made = ServiceDefinition.model_validate(WEB | {"capture": told})
    assert made.capture and not made.upstreams[0].listened
    assert made.capture.whose in ("user web", "user 1001", "cgroup system.slice/web@1.service")


def test_one_that_is_not_captured_does():
    with pytest.raises(ValidationError, match="each needs either local_port or local_socket, unless"):
        ServiceDefinition.model_validate(WEB)


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"user": "web", "cgroup": "web.slice"},
        {"user": 0},
        {"user": 2**32 - 1},
        {"user": 'web"'},
        {"user": "-1"},
        {"cgroup": ""},
        {"cgroup": "/system.slice"},
        {"cgroup": "a/../b"},
        {"cgroup": "a/./b"},
        {"cgroup": 'a" accept'},
        {"cgroup": "a\nb"},
        {"cgroup": "a" * 256},
        {"user": "web", "inbound": "loose"},
    ],
)
def test_attack_50_nothing_else_is_taken_least_of_all_what_could_end_a_rule(told):
    with pytest.raises(ValidationError):
        Capture.model_validate(told)
