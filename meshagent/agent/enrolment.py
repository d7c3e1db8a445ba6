"""How a host joins: it knows the authority by a pinned fingerprint before it says anything, and then enrols its own key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from meshagent.ca.authority_calls import Calls, fingerprint_of, known_by, known_by_nothing
from meshagent.ca.host_identity import KEY_FILE, ROOTS_FILE, host_csr, host_key, keep_host
from meshagent.errors import AuthorityUnavailable, DataDirUnusable, EnrolmentRefused, NotFound
from meshagent.model.identity import Svid, TrustBundle
from meshagent.model.joining import JoinLine, check_place
from meshagent.private import private_dir, read_private, write_private

_MAX_ROOTS, _MAX_ADDRESSES = 16, 32


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What a host has after it joined. `sealed` is its store credential under the token, "" for none."""

    own: Svid
    services: tuple[str, ...]
    addresses: tuple[str, ...]
    store: str
    sealed: str = field(repr=False)


async def enrol(line: JoinLine, host: str, directory: Path, clock: Callable[[], datetime]) -> Enrolled:
    """Join as `host`: key, certificate and pinned roots are kept in the directory when this returns.

    The token is sent to an authority alone that the pinned root vouches for. Raises EnrolmentRefused,
    AuthorityUnavailable, CertificateRefused, and what private files raise.
    """
    root = await pinned_root(line)
    calls = Calls(line.addresses, lambda: known_by(root, line.trust_domain))
    told = await calls.get("/v1/roots")
    roots = tuple(dict.fromkeys((root, *_texts(told.get("roots"))[:_MAX_ROOTS])))
    private_dir(directory)
    key = host_key(directory)
    body = {"token": line.token, "host": host, "csr": host_csr(key)}
    answer = await calls.post("/v1/enrol", body, refusal=EnrolmentRefused, repeatable=False)
    bundle = TrustBundle(((line.trust_domain, roots),))
    own = keep_host(directory, str(answer.get("chain", "")).encode(), host, bundle, line.trust_domain, clock())
    write_private(directory / ROOTS_FILE, "".join(f"{each.strip()}\n" for each in roots).encode())
    places = (*line.addresses, *filter(_is_place, _texts(told.get("authorities"))))
    return Enrolled(
        own=own,
        services=_texts(answer.get("services")),
        addresses=tuple(dict.fromkeys(places))[:_MAX_ADDRESSES],
        store=str(answer.get("store") or ""),
        sealed=str(answer.get("sealed") or ""),
    )


async def pinned_root(line: JoinLine) -> str:
    """The root (PEM) of the fingerprint, from whoever has it: only public facts are asked, and none but the match is kept.

    Raises EnrolmentRefused when what answers has no such root, AuthorityUnavailable when nothing answers.
    """
    for address in line.addresses:
        try:
            told = await Calls((address,), known_by_nothing).get("/v1/roots")
        except AuthorityUnavailable:
            if address == line.addresses[-1]:
                raise
            continue
        if root := _match(line.fingerprint, _texts(told.get("roots"))[:_MAX_ROOTS]):
            return root
    raise EnrolmentRefused(
        f"what answers at {', '.join(line.addresses)} does not have the root of the join line ({line.fingerprint}):"
        " nothing was sent to it",
        next_step="compare with `meshagent ca status` on the authority's machine; something may stand in between",
    )


@contextmanager
def new_key(directory: Path) -> Iterator[None]:
    """Within, the host has no key, so that joining makes another one; when that fails, the old one is back."""
    path = directory / KEY_FILE
    try:
        old = read_private(path)
    except (NotFound, DataDirUnusable):
        old = b""
    path.unlink(missing_ok=True)
    try:
        yield
    except BaseException:
        if old:
            write_private(path, old)
        raise


def _match(fingerprint: str, roots: tuple[str, ...]) -> str:
    for root in roots:
        try:
            if fingerprint_of(root) == fingerprint:
                return root
        except ValueError:
            continue
    return ""


def _texts(value: object) -> tuple[str, ...]:
    return tuple(each for each in value if isinstance(each, str)) if isinstance(value, list) else ()


def _is_place(text: str) -> bool:
    try:
        return bool(check_place(text))
    except ValueError:
        return False
