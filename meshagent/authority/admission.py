"""Letting a host in: its join token is used up in the same transaction that writes its grant."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from meshagent.ca.issuance import LONGEST_TTL
from meshagent.errors import Conflict, EnrolmentRefused
from meshagent.state.enrolment import GrantRecord, TokenRecord, token_hash
from meshagent.state.keys import Keys
from meshagent.state.records import UnreadableRecord, decode, encode
from meshagent.store.base import Entry, Expect, Put, Store

_NEW_LINE = "ask for a new join line: meshagent token create, where the mesh is kept"
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Newcomer:
    """Who asks to be let in: `key_sha256` is that of the key that it will be known by."""

    host: str
    key_sha256: str
    address: str


@dataclass(frozen=True, slots=True)
class Admitted:
    """The grant that now holds, and the store credential for the token's holder, "" for none."""

    grant: GrantRecord
    sealed: str


def refusal(token: TokenRecord | None, grant: GrantRecord | None, host: str, now: datetime) -> str:
    """Why this token does not let this host in now, or "". Pure."""
    if token is None:
        return "the join token is not known here: it was revoked, or never made"
    state = token.state(now)
    if state == "used":
        return f"the join token was used already, at {token.used_at:%Y-%m-%dT%H:%M:%SZ}"
    if state == "expired":
        return f"the join token ended at {token.expires_at:%Y-%m-%dT%H:%M:%SZ}"
    if token.host != host:
        return "the join token is for another host"
    if grant is not None and grant.denied:
        return f"{host} is denied"
    return ""


async def admit(store: Store, keys: Keys, token: str, newcomer: Newcomer, now: datetime) -> Admitted:
    """Use the token up and write the grant, both or neither, whichever authorities try at once.

    Raises EnrolmentRefused, and what the store raises: without a store nobody is let in.
    """
    token_key, grant_key = keys.token(token_hash(token)), keys.grant(newcomer.host)
    for _ in range(_ATTEMPTS):
        held = (await store.read(token_key, grant_key)).entries
        found, before = _token(held.get(token_key)), _grant(held.get(grant_key))
        reason = refusal(found, before, newcomer.host, now)
        if reason or found is None:
            raise EnrolmentRefused(reason, next_step=_NEW_LINE)
        grant = _next_grant(found, before, newcomer, now)
        used = found.model_copy(update={"used_at": now, "used_by_address": newcomer.address, "sealed": ""})
        try:
            await store.commit(
                [
                    Expect(token_key, held[token_key].revision),
                    Expect(grant_key, held[grant_key].revision if grant_key in held else 0),
                    Put(token_key, encode(used)),
                    Put(grant_key, encode(grant)),
                ]
            )
        except Conflict:
            continue
        return Admitted(grant, found.sealed)
    raise EnrolmentRefused("the join token is being used by somebody else", next_step=_NEW_LINE)


def _next_grant(token: TokenRecord, before: GrantRecord | None, newcomer: Newcomer, now: datetime) -> GrantRecord:
    """Of an earlier grant, what an operator denied stays. How long certificates live, each authority's settings say."""
    return GrantRecord(
        host=newcomer.host,
        services=token.services,
        max_ttl_seconds=int(LONGEST_TTL.total_seconds()),
        denied_services=before.denied_services if before else (),
        key_sha256=newcomer.key_sha256,
        by=token.created_by,
        at=now,
    )


def _token(entry: Entry | None) -> TokenRecord | None:
    try:
        return decode(TokenRecord, entry.value) if entry else None
    except UnreadableRecord:
        return None


def _grant(entry: Entry | None) -> GrantRecord | None:
    if entry is None:
        return None
    try:
        return decode(GrantRecord, entry.value)
    except UnreadableRecord as error:
        raise EnrolmentRefused(
            f"what this host was granted before {error}", next_step="look who could write the store"
        ) from None
