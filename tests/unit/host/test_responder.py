"""What the DNS listener takes on: names as they come and go, the same question once, and only so many a second."""

from __future__ import annotations

import subprocess
import sys

import dns.message
import pytest

from meshagent.host import responder as module
from meshagent.host.allowance import Allowance
from meshagent.host.responder import QUERIES_A_SECOND, RESULTS, Responder
from meshagent.model.virtual import virtual_addresses

TWINS = {"service-12694", "service-5771"}  # they share an IPv4 address


class Desk:
    """A responder whose names and clock the test holds."""

    def __init__(self, *names):
        self.names, self.now = frozenset(names), 100.0
        self.responder = Responder(("127.0.0.1", 15053), "mesh", lambda: self.names, lambda: self.now)

    def ask(self, name, kind="A"):
        query = dns.message.make_query(name, kind)
        wire = self.responder.reply(query.to_wire(), tcp=False)
        if wire is None:
            return None
        response = dns.message.from_wire(wire)
        assert query.is_response(response)
        return [str(each) for rrset in response.answer for each in rrset]


def test_a_name_is_answered_from_when_the_host_declares_it_until_it_no_longer_does():
    desk = Desk()
    assert desk.ask("api.mesh") == []
    desk.names = frozenset({"api"})
    assert desk.ask("api.mesh") == [str(virtual_addresses("api")[0])]
    desk.names = frozenset({"payments"})
    assert desk.ask("api.mesh") == []
    assert desk.responder.counts == dict.fromkeys(RESULTS, 0) | {"answered": 1, "nxdomain": 2}


def test_the_same_question_is_worked_out_once_and_each_sender_gets_its_own_number(monkeypatch):
    desk = Desk("api")
    desk.ask("api.mesh")
    monkeypatch.setattr(desk.responder, "_work_out", None)
    for _ in range(5):
        assert desk.ask("api.mesh") == [str(virtual_addresses("api")[0])]
    assert desk.responder.counts["answered"] == 6


def test_what_is_kept_is_bounded():
    desk = Desk("api")
    desk.names = frozenset(f"x{number}" for number in range(600))
    for name in sorted(desk.names):
        desk.now += 1
        assert desk.ask(f"{name}.mesh")
    assert len(desk.responder._kept) == module._KEPT_REPLIES
    assert desk.ask("x0.mesh")


def test_a_flood_of_names_is_cut_short_and_the_names_of_this_host_are_still_answered():
    desk = Desk("api")
    assert desk.ask("api.mesh")
    told = [desk.ask(f"x{number}.mesh") for number in range(2000)]
    assert told.count(None) == desk.responder.counts["dropped"] == 2000 - (QUERIES_A_SECOND - 1)
    assert desk.ask("api.mesh")
    desk.now += 0.5
    assert [desk.ask(f"y{number}.mesh") for number in range(1000)].count([]) == QUERIES_A_SECOND / 2


def test_what_deserves_no_answer_gets_none_and_is_counted():
    desk = Desk("api")
    for packet in (b"", b"x", b"\0" * 11, b"\0\0\x80" + b"\0" * 20):
        assert desk.responder.reply(packet, tcp=False) is None
    assert desk.responder.counts["malformed"] == 4


def test_names_that_share_an_address_are_a_problem_and_no_others_are():
    assert Desk("api", "payments").responder.problem == ""
    assert "service-12694 and service-5771" in Desk(*TWINS, "api").responder.problem


@pytest.mark.parametrize(("address", "said"), [(("127.0.0.1", 53), "127.0.0.1:53"), (("::1", 53), "[::1]:53")])
def test_the_address_is_said_as_it_is_written_in_settings(address, said):
    assert Responder(address, "mesh", frozenset).where == said


def test_the_library_for_the_wire_format_waits_for_the_first_query():
    code = "import sys, meshagent.daemon, meshagent.host.responder; sys.exit('dns' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_an_address_there_is_none():
    assert Responder.of(None, "mesh", frozenset) is None


def test_an_allowance_is_so_many_a_second_and_as_many_at_once():
    allowance = Allowance(10, 10, now=0.0)
    assert [allowance.take(0.0) for _ in range(12)] == [True] * 10 + [False] * 2
    assert [allowance.take(0.31) for _ in range(4)] == [True] * 3 + [False]
    assert sum(allowance.take(1000.0) for _ in range(50)) == 10
