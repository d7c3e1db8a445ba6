"""What etcd's refusals and silences mean: whether to log in again, ask another member, or tell a person."""

from __future__ import annotations

import pytest
from grpc import StatusCode

from meshagent.errors import LeaseLost, MeshError, StoreDenied, StoreUnavailable
from meshagent.wire import etcd_pb2 as pb
from meshagent.wire.etcd_calls import AUTHENTICATE, STATUS, WRITE, AuthOff, Behind, failure_of
from meshagent.wire.etcd_watch import canceled, pause_of

MEANINGS = [
    (StatusCode.PERMISSION_DENIED, "etcdserver: permission denied", StoreDenied, "permission denied"),
    (StatusCode.NOT_FOUND, "etcdserver: requested lease not found", LeaseLost, "lease has ended"),
    (StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted", Behind, "compacted"),
    (StatusCode.FAILED_PRECONDITION, "etcdserver: authentication is not enabled", AuthOff, "not enabled"),
    (
        StatusCode.INVALID_ARGUMENT,
        "etcdserver: authentication failed, invalid user ID or password",
        StoreDenied,
        "user and password",
    ),
    (StatusCode.INVALID_ARGUMENT, "etcdserver: request is too large", StoreDenied, "too large"),
    (StatusCode.RESOURCE_EXHAUSTED, "grpc: received message larger than max (3 vs. 2)", StoreDenied, "larger than max"),
    (StatusCode.INVALID_ARGUMENT, "etcdserver: too many operations in txn request", StoreDenied, "too many"),
    (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", StoreUnavailable, "full"),
    (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests", StoreUnavailable, "cannot do it now"),
    (StatusCode.UNAVAILABLE, "etcdserver: no leader", StoreUnavailable, "no leader"),
    (StatusCode.UNAVAILABLE, "Socket closed", StoreUnavailable, "h:1 does not answer"),
    (StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", StoreUnavailable, "in time"),
]


@pytest.mark.parametrize(("code", "said", "kind", "words"), MEANINGS, ids=[each[1][:40] for each in MEANINGS])
def test_a_status_and_its_text_become_an_error_that_says_what_to_do(
    code: StatusCode, said: str, kind: type[Exception], words: str
) -> None:
    error = failure_of(code, said, "h:1").error

    assert type(error) is kind
    assert words in str(error)
    if isinstance(error, MeshError):
        assert error.next_step


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (StatusCode.UNAUTHENTICATED, "etcdserver: invalid auth token"),
        (StatusCode.INVALID_ARGUMENT, "etcdserver: revision of auth store is old"),
        (StatusCode.INVALID_ARGUMENT, "etcdserver: user name is empty"),
    ],
)
def test_a_token_that_ended_asks_for_a_new_one(code: StatusCode, said: str) -> None:
    failure = failure_of(code, said, "h:1")

    assert (failure.token, failure.elsewhere, failure.begun) == (True, False, False)


@pytest.mark.parametrize(
    ("code", "said", "begun"),
    [
        (StatusCode.UNAVAILABLE, "failed to connect to all addresses; last error: refused", False),
        (StatusCode.UNAVAILABLE, "Socket closed", True),
        (StatusCode.UNAVAILABLE, "etcdserver: leader changed", True),
        (StatusCode.UNAVAILABLE, "etcdserver: request timed out", True),
        (StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", True),
    ],
)
def test_only_a_call_that_never_left_is_known_not_to_be_done(code: StatusCode, said: str, begun: bool) -> None:
    failure = failure_of(code, said, "h:1")

    assert (failure.elsewhere, failure.begun) == (True, begun)


def test_a_certificate_that_is_not_believed_is_a_matter_for_a_person() -> None:
    said = "failed to connect to all addresses; last error: Ssl handshake failed: CERTIFICATE_VERIFY_FAILED"

    error = failure_of(StatusCode.UNAVAILABLE, said, "h:1").error

    assert isinstance(error, StoreDenied)
    assert "store_ca_file" in error.next_step


def test_what_etcd_says_cannot_break_a_line() -> None:
    assert str(failure_of(StatusCode.UNAVAILABLE, "etcdserver: a\nb\x1b[31m", "h:1").error).isprintable()


def test_a_write_is_not_sent_twice_and_a_login_carries_no_token() -> None:
    assert not WRITE.harmless
    assert STATUS.harmless
    assert not AUTHENTICATE.signed


def test_a_watcher_that_etcd_ended_says_why() -> None:
    assert isinstance(canceled(pb.WatchResponse(canceled=True, compact_revision=7), "h:1"), Behind)
    for reason in ("etcdserver: permission denied", "rpc error: code = Unauthenticated desc = invalid auth token"):
        refused = canceled(pb.WatchResponse(canceled=True, cancel_reason=reason), "h:1")
        assert not isinstance(refused, Behind)
        assert refused.token
        assert isinstance(refused.error, StoreDenied)
    leaderless = canceled(pb.WatchResponse(canceled=True, cancel_reason="etcdserver: no leader"), "h:1")
    assert not isinstance(leaderless, Behind)
    assert isinstance(leaderless.error, StoreUnavailable)


def test_pauses_grow_to_two_seconds_and_are_spread_out() -> None:
    assert [round(pause_of(attempt, 1.0), 2) for attempt in (0, 1, 2, 20)] == [0.07, 0.12, 0.22, 2.02]
    assert pause_of(20, 0.0) == 0.02
