"""From single probes to health."""

from __future__ import annotations

from meshagent.host.verdict import Verdict, healthy, judge


def run(*answers):
    verdict = Verdict()
    for passed in answers:
        verdict = judge(verdict, passed, "said")
    return verdict.status


def test_nothing_is_known_before_the_first_answer_and_then_it_is_in_or_out():
    assert Verdict().status == "unknown"
    assert run(True) == "passing" and run(False) == "failing"


def test_one_lost_probe_takes_nobody_out_two_do():
    assert run(True, False) == "passing"
    assert run(True, False, False) == "failing"
    assert run(True, False, True, False) == "passing"


def test_one_good_answer_brings_back():
    assert run(True, False, False, True) == "passing"


def test_a_service_is_healthy_when_every_check_passes_or_it_has_none():
    passing, failing = Verdict("passing"), Verdict("failing")
    assert healthy(()) and healthy((passing, passing))
    assert not healthy((passing, failing)) and not healthy((Verdict(),))
