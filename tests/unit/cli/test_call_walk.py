"""Where a call breaks: what can be told without a mesh that runs."""

from __future__ import annotations

from meshagent.cli.call_walk import Facts, broken_at, walk
from meshagent.errors import StoreUnavailable

SOURCE = {
    "calls": {"db": 9001},
    "captured": False,
    "expires_at": "2026-11-21T12:00:00+00:00",
    "expired": False,
    "problem": "",
}
LISTENER = {"name": "out/web/db:9001", "there": True, "rejected": ""}
APP = {
    "id": "db",
    "address": "127.0.0.1:5432",
    "problem": "",
    "failing": [],
    "draining": False,
    "listening": True,
    "expired": False,
}
PATH = {"host": "vm-1", "source": SOURCE, "listener": LISTENER, "endpoints": [], "apps": []}


def found(**path):
    return walk(Facts("web", "db", path=PATH | path))


def test_a_certificate_that_has_ended_is_where_the_call_breaks():
    ended = SOURCE | {"expired": True, "problem": "the CA does not answer"}
    broken = broken_at(found(source=ended))
    assert broken.about == "identity" and "the CA does not answer" in broken.what
    assert "is not there" in broken_at(found(source=ended | {"expires_at": None})).what


def test_a_listener_that_envoy_rejects_or_does_not_have_is():
    assert "no such port" in broken_at(found(listener=LISTENER | {"rejected": "no such port"})).what
    assert "does not listen" in broken_at(found(listener=LISTENER | {"there": False})).what
    assert "not worked out" in broken_at(found(listener=None)).what


def test_each_thing_that_may_be_wrong_with_an_app_is_told():
    for wrong, words in (
        ({"listening": False}, "does not take calls"),
        ({"expired": True}, "no certificate"),
        ({"problem": "Connection refused"}, "Connection refused"),
        ({"failing": ["HTTP/1.1 500"]}, "HTTP/1.1 500"),
    ):
        assert words in broken_at(found(apps=[APP | wrong])).what
    assert broken_at(found(apps=[APP | {"draining": True}])) is None


def test_a_caller_elsewhere_is_looked_at_there():
    seen = walk(Facts("web", "db", hosts=("vm-2",), path=PATH | {"source": None}))
    assert seen[0].state == "warning" and "vm-2" in seen[0].next_step
    on_the_other_side = walk(Facts("web", "db", hosts=("vm-2",), path=PATH | {"source": None, "apps": [APP]}))
    assert [each.about for each in on_the_other_side] == ["app"]


def test_without_a_store_the_hosts_own_side_is_still_told():
    facts = Facts("web", "db", store_error=StoreUnavailable("nobody answers", next_step="start it"), path=PATH)
    assert [(each.about, each.state) for each in walk(facts)] == [
        ("store", "bad"),
        ("identity", "ok"),
        ("listener", "ok"),
    ]


def test_one_instance_that_does_not_answer_is_a_warning_while_another_does():
    good = {"address": "10.0.0.1", "port": 21000, "healthy": True, "code": "", "said": "it is db", "left_out": []}
    bad = good | {"address": "10.0.0.2", "code": "connect", "said": "no answer within 2 s"}
    instance = {"id": "db", "host": "vm-2", "health": "passing", "called": True}
    answer = {
        "why": "an intention says allow",
        "origin": {"file": "", "line": 0, "who": "me", "at": None},
        "outcome": "allow",
        "allowed": True,
        "route": None,
        "instances": [instance],
    }
    both = walk(Facts("web", "db", answer=answer, path=PATH | {"endpoints": [good, bad]}))
    assert broken_at(both) is None and any(each.about == "network" and each.state == "warning" for each in both)
    alone = walk(Facts("web", "db", answer=answer, path=PATH | {"endpoints": [bad]}))
    assert broken_at(alone).about == "network"
