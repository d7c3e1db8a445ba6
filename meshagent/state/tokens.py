"""What an operator does about hosts: make, list and revoke join tokens; deny a host, or one of its services."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta

from meshagent.errors import Conflict, NotFound, UsageProblem
from meshagent.model.names import check_service_name
from meshagent.state.changes import Author
from meshagent.state.credentials import packed
from meshagent.state.enrolment import (
    ID_LENGTH,
    GrantRecord,
    SignerRecord,
    TokenRecord,
    new_token,
    seal,
    token_hash,
)
from meshagent.state.keys import Keys
from meshagent.state.records import UnreadableRecord, decode, encode
from meshagent.store.base import Delete, Expect, Put, Store
from meshagent.store.credentials import Credential

LONGEST_TTL = timedelta(hours=24)
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Invitation:
    """Whom a token lets in, as which services, for how long, with which credential of the store."""

    host: str
    services: tuple[str, ...]
    ttl: timedelta
    credential: Credential | None = field(default=None, repr=False)


async def invite(store: Store, keys: Keys, invitation: Invitation, author: Author) -> str:
    """Keep a new token for one host. Returns it; nobody can read it again. Raises UsageProblem, what the store raises."""
    check_invitation(invitation)
    token = new_token()
    record = TokenRecord(
        host=invitation.host,
        services=invitation.services,
        expires_at=author.at + invitation.ttl,
        created_by=author.who,
        at=author.at,
        sealed=seal(token, packed(invitation.credential)) if invitation.credential else "",
    )
    key = keys.token(token_hash(token))
    await store.commit([Expect(key, 0), Put(key, encode(record))])
    return token


def check_invitation(invitation: Invitation) -> None:
    """Raises UsageProblem for a host, services or a time that no token may have."""
    for name in (invitation.host, *invitation.services):
        try:
            check_service_name(name)
        except ValueError as error:
            raise UsageProblem(f"{name!r} {error}", next_step="such as --host vm-2 --services web,batch") from None
    if not invitation.services:
        raise UsageProblem("a host joins for at least one service", next_step="--services web,batch")
    if not timedelta(0) < invitation.ttl <= LONGEST_TTL:
        raise UsageProblem("a join token lives for at most 24h", next_step="--ttl 10m")


async def signers(store: Store, keys: Keys) -> tuple[SignerRecord, ...]:
    """The authorities that have an intermediate. Raises NotFound where there is none."""
    held = (await store.read(keys.signers)).entries.values()
    found = tuple(each for each in (decode(SignerRecord, entry.value) for entry in held) if each.intermediate)
    if not found:
        raise NotFound("no authority is known in this mesh", next_step="meshagent init, then meshagent authority")
    return found


async def tokens(store: Store, keys: Keys) -> dict[str, TokenRecord]:
    """All tokens by their hash; records that cannot be read are left out."""
    found: dict[str, TokenRecord] = {}
    for key, entry in (await store.read(keys.tokens)).entries.items():
        try:
            found[key.removeprefix(keys.tokens)] = decode(TokenRecord, entry.value)
        except UnreadableRecord:
            continue
    return found


async def revoke(store: Store, keys: Keys, short: str) -> TokenRecord:
    """Take the token back whose id this is; a used one is only forgotten. Raises NotFound, Conflict."""
    matches = [digest for digest in await tokens(store, keys) if digest.startswith(short)]
    if len(short) < ID_LENGTH or len(matches) != 1:
        raise NotFound(f"no token has the id {short}", next_step="meshagent token list")
    key = keys.token(matches[0])
    entry = (await store.read(key)).entries.get(key)
    if entry is None:
        raise NotFound(f"no token has the id {short}", next_step="meshagent token list")
    await store.commit([Expect(key, entry.revision), Delete(key)])
    return decode(TokenRecord, entry.value)


async def deny(store: Store, keys: Keys, host: str, service: str, author: Author) -> GrantRecord:
    """Certify the host no more, or not for one service. Raises NotFound, Conflict."""

    def edit(grant: GrantRecord) -> GrantRecord:
        if not service:
            return grant.model_copy(update={"denied": True})
        return grant.model_copy(update={"denied_services": tuple(sorted({*grant.denied_services, service}))})

    return await _edit(store, keys, host, edit, author)


async def allow(store: Store, keys: Keys, host: str, service: str, author: Author) -> GrantRecord:
    """Take a denial back. Raises NotFound, Conflict."""

    def edit(grant: GrantRecord) -> GrantRecord:
        if not service:
            return grant.model_copy(update={"denied": False})
        return grant.model_copy(update={"denied_services": tuple(set(grant.denied_services) - {service})})

    return await _edit(store, keys, host, edit, author)


async def grants(store: Store, keys: Keys) -> dict[str, GrantRecord]:
    """What each host was granted; records that cannot be read are left out."""
    found: dict[str, GrantRecord] = {}
    for key, entry in (await store.read(keys.grants)).entries.items():
        try:
            found[key.removeprefix(keys.grants)] = decode(GrantRecord, entry.value)
        except UnreadableRecord:
            continue
    return found


async def _edit(
    store: Store, keys: Keys, host: str, edit: Callable[[GrantRecord], GrantRecord], author: Author
) -> GrantRecord:
    key = keys.grant(host)
    for left in reversed(range(_ATTEMPTS)):
        entry = (await store.read(key)).entries.get(key)
        if entry is None:
            raise NotFound(f"no host {host} has joined", next_step="meshagent token list shows whom tokens are for")
        changed = edit(decode(GrantRecord, entry.value)).model_copy(update={"by": author.who, "at": author.at})
        try:
            await store.commit([Expect(key, entry.revision), Put(key, encode(changed))])
        except Conflict:
            if not left:
                raise
            continue
        return changed
    raise AssertionError("there is a last attempt")


def with_credential(invitation: Invitation, credential: Credential | None) -> Invitation:
    """The same with a credential of the store."""
    return replace(invitation, credential=credential)
