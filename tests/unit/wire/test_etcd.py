"""The client of etcd, as far as it needs no etcd."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from meshagent.errors import StoreDenied, StoreUnavailable, UsageProblem
from meshagent.store.access import Access
from meshagent.wire import etcd_pb2 as pb
from meshagent.wire.etcd import open_etcd
from meshagent.wire.etcd_calls import STATUS
from meshagent.wire.etcd_watch import LONGEST_SILENCE, SILENCE, Range, Watch, patience_after


async def test_a_closed_client_refuses_calls_and_ends_watches() -> None:
    etcd = open_etcd("etcd://127.0.0.1:1", Access())
    await etcd.close()
    await etcd.close()

    with pytest.raises(StoreUnavailable, match="closed"):
        await etcd.call(STATUS, pb.StatusRequest())
    assert [answer async for answer in Watch(etcd, [Range(b"a")], after=0).run()] == []


async def test_the_next_member_is_preferred_once_however_many_calls_left_one() -> None:
    etcd = open_etcd("etcd://h1,h2,h3", Access())
    first = etcd.member

    etcd.leave(first)
    etcd.leave(first)

    assert (first, etcd.member) == ("h1:2379", "h2:2379")
    etcd.leave("h2:2379")
    etcd.leave("h3:2379")
    assert etcd.member == "h1:2379"
    await etcd.close()


async def test_a_loss_is_logged_once_and_so_is_its_end() -> None:
    etcd = open_etcd("etcd://h1", Access())
    with capture_logs() as logs:
        etcd.tell(lost="")
        etcd.tell(lost="it is silent")
        etcd.tell(lost="it does not answer")
        etcd.tell(lost="")
        etcd.tell(lost="")

    assert [line["event"] for line in logs] == ["etcd_lost", "etcd_found"]
    await etcd.close()


async def test_without_a_user_nobody_logs_in() -> None:
    etcd = open_etcd("etcd://h1", Access())

    assert await etcd.sign_in() == ""
    await etcd.close()


async def test_files_and_users_that_are_incomplete_are_refused_at_the_start(tmp_path: Path) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("no certificate")

    with pytest.raises(StoreDenied, match="junk.pem"):
        open_etcd("etcd://h", Access(ca_file=junk))
    with pytest.raises(StoreDenied, match=r"absent\.pem"):
        open_etcd("etcd://h", Access(ca_file=tmp_path / "absent.pem"))
    with pytest.raises(UsageProblem, match="together"):
        open_etcd("etcd://h", Access(cert_file=junk))
    with pytest.raises(StoreDenied, match="password"):
        open_etcd("etcd://h", Access(username="ann"))


async def test_a_member_gets_more_time_where_there_is_no_other_to_turn_to() -> None:
    alone, several = open_etcd("etcd://h1", Access()), open_etcd("etcd://h1,h2", Access())

    assert (alone.attempt, several.attempt) == (9.0, 4.0)
    await alone.close()
    await several.close()


async def test_when_no_member_did_it_each_gets_more_time() -> None:
    etcd = open_etcd("etcd://127.0.0.1:1,127.0.0.1:2", Access())
    with pytest.raises(StoreUnavailable):
        await etcd.call(STATUS, pb.StatusRequest())

    assert etcd.attempt == 9.0
    await etcd.close()


def test_a_stream_may_be_silent_for_longer_where_answers_take_long_and_where_there_is_no_other_member() -> None:
    assert patience_after(SILENCE, gap=1.0, members=3) == SILENCE
    assert patience_after(SILENCE, gap=2.5, members=3) == 7.5
    assert patience_after(SILENCE, gap=60.0, members=3) == LONGEST_SILENCE
    assert SILENCE < patience_after(7.5, gap=1.0, members=3) < 7.5
    assert patience_after(SILENCE, gap=0.0, members=1) == LONGEST_SILENCE
