"""Join tokens and grants: hashed, sealed, and judged at a time that is passed in."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest

from meshagent.errors import EnrolmentRefused
from meshagent.state.enrolment import GrantRecord, TokenRecord, new_token, seal, token_hash, unseal
from meshagent.state.records import decode, encode

NOW = datetime(2026, 11, 21, tzinfo=UTC)
TOKEN = TokenRecord(host="vm-b", services=("payments",), expires_at=NOW, created_by="ann", at=NOW)


def test_tokens_are_random_and_long_and_kept_by_their_hash():
    first, second = new_token(), new_token()
    assert first != second and len(first) == 43
    assert len(token_hash(first)) == 64 and token_hash(first) == token_hash(first) != token_hash(second)


def test_what_is_sealed_is_opened_by_the_token_alone_and_differs_each_time():
    token = new_token()
    sealed = seal(token, b"secret-credential")
    assert unseal(token, sealed) == b"secret-credential"
    assert sealed != seal(token, b"secret-credential")
    assert b"secret-credential" not in base64.b64decode(sealed)
    with pytest.raises(EnrolmentRefused):
        unseal(new_token(), sealed)


@pytest.mark.parametrize("place", [0, 11, 12, -1])
def test_a_sealed_value_that_was_changed_is_refused(place):
    token = new_token()
    raw = bytearray(base64.b64decode(seal(token, b"secret")))
    raw[place] ^= 1
    with pytest.raises(EnrolmentRefused):
        unseal(token, base64.b64encode(raw).decode())


@pytest.mark.parametrize("sealed", ["", "AAAA", "not base64", "A" * 40])
def test_what_was_never_sealed_is_refused(sealed):
    with pytest.raises(EnrolmentRefused):
        unseal(new_token(), sealed)


def test_a_token_is_open_until_it_ends_or_is_used():
    second = timedelta(seconds=1)
    assert TOKEN.state(NOW - second) == "open"
    assert TOKEN.state(NOW) == "expired"
    used = TOKEN.model_copy(update={"used_at": NOW - second})
    assert used.state(NOW - second) == used.state(NOW + second) == "used"


def test_a_grant_allows_its_services_but_none_that_are_denied():
    grant = GrantRecord(host="vm-b", services=("payments", "batch"), denied_services=("batch",), at=NOW)
    assert [grant.allows(each) for each in ("payments", "batch", "web")] == [True, False, False]
    assert not grant.model_copy(update={"denied": True}).allows("payments")


def test_records_are_read_back():
    grant = GrantRecord(host="vm-b", services=("payments",), at=NOW)
    assert decode(TokenRecord, encode(TOKEN)) == TOKEN and decode(GrantRecord, encode(grant)) == grant
