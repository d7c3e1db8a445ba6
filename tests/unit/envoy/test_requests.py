"""The access log read backwards: what fits, newest first, within bounds."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from meshagent.api.requests import logged_requests
from meshagent.envoy.requests import Wanted, parse_seen, read_requests, seen_of
from meshagent.errors import UsageProblem

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
REFUSED = {
    "time": "2026-11-21T12:00:00.000Z",
    "side": "inbound",
    "service": "payments",
    "source": "spiffe://mesh.internal/svc/web",
    "destination": "spiffe://mesh.internal/svc/payments",
    "ticket": "1795262400000000-3",
    "far_ticket": "1795262400000000-3",
    "status": 403,
    "flags": "-",
    "details": "rbac_access_denied_matched_policy[none]",
    "method": "GET",
    "path": "/reports",
    "rule": None,
    "subset": ["v1", "canary"],
    "duration_ms": 0,
}


def line(number: int = 0, **more: object) -> bytes:
    time = (NOW + timedelta(seconds=number)).isoformat()
    return json.dumps({**REFUSED, "time": time, "ticket": f"{number}-1", **more}).encode()


def write(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"".join(each + b"\n" for each in lines))
    return path


def test_a_line_becomes_a_value():
    seen = seen_of(REFUSED)
    assert (seen.source, seen.destination, seen.side, seen.service) == ("web", "payments", "inbound", "payments")
    assert (seen.reason, seen.status, seen.method, seen.path) == ("intention", 403, "GET", "/reports")
    assert (seen.ticket, seen.far_ticket, seen.flags, seen.rule) == ("1795262400000000-3", "", (), "")
    assert seen.subset == "v1,canary" and seen.time == NOW and seen.http
    assert json.loads(json.dumps(seen.data()))["time"] == "2026-11-21T12:00:00+00:00"


def test_what_shadow_would_refuse_is_doubted_unless_it_was_refused():
    passed = {**REFUSED, "status": 200, "details": "via_upstream", "shadow": "denied"}
    assert seen_of(passed).doubted and seen_of(passed).data()["doubted"]
    assert not seen_of({**passed, "shadow": "allowed"}).doubted
    assert not seen_of({**REFUSED, "shadow": "denied"}).doubted and not seen_of(REFUSED).doubted


def test_a_callers_line_names_what_it_called():
    seen = seen_of({**REFUSED, "side": "outbound to payments", "service": "web", "flags": "UF,URX", "status": 503})
    assert (seen.side, seen.source, seen.destination) == ("outbound", "web", "payments")
    assert seen.flags == ("UF", "URX") and all(len(words) > 5 for words in seen.flag_words)


def test_what_a_stranger_claims_is_not_who_calls():
    stranger = {"side": "inbound", "service": "", "source": None, "status": None, "method": None, "destination": None}
    stranger |= {
        "claimed": "spiffe://mesh.internal/svc/web",
        "server_name": "web.payments.mesh.internal",
        "details": None,
    }
    seen = seen_of({**REFUSED, **stranger, "failure": "TLS_error:|1:CERTIFICATE_VERIFY_FAILED:x"})
    assert (seen.source, seen.source_id, seen.claimed) == ("", "", "spiffe://mesh.internal/svc/web")
    assert (seen.destination, seen.reason, seen.http) == ("payments", "tls-unknown-root", False)
    assert seen_of({**REFUSED, **stranger, "server_name": "nonsense"}).destination == ""


def test_a_line_of_before_has_what_it_has():
    seen = seen_of({"time": "2026-11-21T12:00:00Z", "side": "inbound", "service": "payments", "status": 500})
    assert (seen.ticket, seen.source, seen.reason, seen.duration_ms) == ("", "", "failed", -1)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"time": "nonsense"}', b'{"side": "inbound"}', b"\xff\xfe"])
def test_what_is_no_request_is_none(text):
    assert parse_seen(text) is None


def test_the_newest_come_first_and_no_more_than_asked(tmp_path):
    path = write(tmp_path / "access.log", *(line(number) for number in range(50)))
    found, whole = read_requests(path, Wanted(), most=3)
    assert [each.ticket for each in found] == ["49-1", "48-1", "47-1"] and not whole
    found, whole = read_requests(path, Wanted(), most=50)
    assert (len(found), whole) == (50, True)


def test_what_was_put_aside_comes_after(tmp_path):
    path = write(tmp_path / "access.log", line(9))
    write(tmp_path / "access.log.1", line(7), line(8))
    assert [each.ticket for each in read_requests(path, Wanted())[0]] == ["9-1", "8-1", "7-1"]


def test_only_the_last_bytes_are_read_and_a_line_that_is_cut_is_left_out(tmp_path):
    path = write(tmp_path / "access.log", *(line(number, details="x" * 500) for number in range(1000)))
    found, whole = read_requests(path, Wanted(), most=1000, look_bytes=100_000)
    assert 50 < len(found) < 200 and not whole
    assert found[0].ticket == "999-1" and found[-1].ticket == f"{1000 - len(found)}-1"


def test_lines_longer_than_a_block_are_whole(tmp_path):
    path = write(tmp_path / "access.log", *(line(number, path="/" + "x" * 100_000) for number in range(5)))
    assert [len(each.path) for each in read_requests(path, Wanted())[0]] == [100_001] * 5


def test_a_log_that_is_not_there_or_a_link_has_nothing(tmp_path):
    assert read_requests(tmp_path / "access.log", Wanted()) == ((), True)
    write(tmp_path / "other", line())
    (tmp_path / "access.log").symlink_to(tmp_path / "other")
    assert read_requests(tmp_path / "access.log", Wanted()) == ((), True)


@pytest.mark.parametrize(
    ("wanted", "tickets"),
    [
        (Wanted(ticket="2-1"), ["2-1"]),
        (Wanted(ticket="far"), ["1-1"]),
        (Wanted(source="batch"), ["3-1"]),
        (Wanted(destination="nobody"), []),
        (Wanted(status="4xx"), ["3-1", "2-1"]),
        (Wanted(status="200"), ["1-1"]),
        (Wanted(reason="intention"), ["3-1", "2-1"]),
        (Wanted(failed=True), ["3-1", "2-1"]),
        (Wanted(since=NOW + timedelta(seconds=2)), ["3-1", "2-1"]),
        (Wanted(side="outbound"), []),
    ],
)
def test_it_finds_what_is_wanted(tmp_path, wanted, tickets):
    path = write(
        tmp_path / "access.log",
        line(1, status=200, details="via_upstream", far_ticket="far"),
        line(2),
        line(3, source="spiffe://mesh.internal/svc/batch"),
    )
    assert [each.ticket for each in read_requests(path, wanted)[0]] == tickets


async def test_the_api_gives_them_as_data(tmp_path):
    write(tmp_path / "access.log", line(1), line(2, status=200, details="via_upstream"))
    asked = {"since": "1h", "failed": "1", "most": "5"}
    answer = await logged_requests(tmp_path, asked, NOW)
    assert [each["ticket"] for each in answer["requests"]] == ["1-1"] and answer["all"]
    assert (await logged_requests(tmp_path, {"since": "2026-11-21T12:00:02Z"}, NOW))["requests"][0]["ticket"] == "2-1"


@pytest.mark.parametrize("query", [{"colour": "red"}, {"most": "many"}, {"since": "yesterday"}])
async def test_what_cannot_be_asked_is_said(tmp_path, query):
    with pytest.raises(UsageProblem):
        await logged_requests(tmp_path, query, NOW)
