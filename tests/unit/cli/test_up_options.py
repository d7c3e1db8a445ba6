"""`meshagent up NAME --port`: a service without a file."""

from __future__ import annotations

import pytest

ROW = {
    "name": "web",
    "id": "web",
    "address": "127.0.0.1",
    "port": 8080,
    "protocol": "http",
    "mtls_port": 21000,
    "health": "passing",
    "checks": [],
    "source": "api",
    "upstreams": [],
}


def test_a_service_is_registered_as_the_options_say(agent):
    agent.answer("PUT", "/v1/services", ROW)
    words = ("--protocol", "http", "--upstream", "payments:9191", "--upstream", "db:9192", "--meta", "version=7")
    agent.run("up", "web", "--port", "8080", *words, "--address", "127.0.0.2", "--id", "web-2")
    assert agent.asked[0][3] == {
        "name": "web",
        "id": "web-2",
        "port": 8080,
        "address": "127.0.0.2",
        "protocol": "http",
        "meta": {"version": "7"},
        "upstreams": [{"service": "payments", "local_port": 9191}, {"service": "db", "local_port": 9192}],
    }


def test_what_is_not_told_has_its_default(agent):
    agent.answer("PUT", "/v1/services", ROW)
    agent.run("up", "web", "--port", "8080")
    assert agent.asked[0][3] == {"name": "web", "port": 8080}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("web", "batch", "--port", "80"), "give its NAME alone"),
        (("Web", "--port", "80"), "'Web' must be 1 to 63"),
        (("web", "--protocol", "http"), "by its NAME and --port"),
        (("web", "--port", "0"), "0 is not in the range"),
        (("web", "--port", "80", "--upstream", "payments"), "must be SERVICE:LOCALPORT"),
        (("web", "--port", "80", "--upstream", "payments:x"), "must be SERVICE:LOCALPORT"),
        (("web", "--port", "80", "--upstream", "a:1", "--upstream", "b:1"), "two upstreams with the same local_port"),
        (("web", "--port", "80", "--meta", "version"), "must be KEY=VALUE"),
        (("web", "--port", "80", "--address", "elsewhere"), "must be an IPv4 or IPv6 address"),
    ],
)
def test_what_makes_no_sense_is_told_and_asks_nothing(agent, words, said):
    assert said in agent.run("up", *words, code=2).stderr
    assert agent.asked == []
