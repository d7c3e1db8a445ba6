"""What `intention allow`, `deny` and `delete` make of a destination's document. Pure.

An intention with permissions denies what none of them matches. So whoever denies one path of a source that may do
everything means "and the rest as before": the rest is then written out behind the new permission.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from meshagent.cli.rules import moment, permission_words
from meshagent.model.intention import Action, HttpMatch, Intention, IntentionSource, Permission
from meshagent.model.view import Rule

EVERYTHING = HttpMatch(path_prefix="/")


@dataclass(frozen=True, slots=True)
class Wish:
    """What the command line asks for. Without `http` it is about everything that the source sends."""

    source: str
    destination: str
    action: Action
    http: HttpMatch | None = None
    expires_at: datetime | None = None
    reason: str = ""
    shadow: bool = False


@dataclass(frozen=True, slots=True)
class Amended:
    """The source's intention as it is to be, and what the person ought to know about the step to it."""

    source: IntentionSource
    notes: tuple[str, ...] = ()


def amended(wish: Wish, held: IntentionSource | None, decides: Rule | None, default: Action) -> Amended:
    """The source's intention after the wish.

    `held` is its own that is in force now, `decides` the rule that decides for it now (None: the mesh's default).
    """
    if wish.http is None:
        return _whole(wish, held)
    return _part(wish, wish.http, held, decides, default)


def placed(document: Intention | None, destination: str, source: IntentionSource) -> Intention:
    """The destination's document with this source's intention, in its old place where it had one."""
    sources = document.sources if document else ()
    if all(each.part != source.part for each in sources):
        return Intention(name=destination, sources=(*sources, source))
    return Intention(name=destination, sources=tuple(source if each.part == source.part else each for each in sources))


def without(document: Intention, gone: Collection[str]) -> Intention | None:
    """The document without these parts of it; None when none is left."""
    sources = tuple(each for each in document.sources if each.part not in gone)
    return Intention(name=document.name, sources=sources) if sources else None


def _whole(wish: Wish, held: IntentionSource | None) -> Amended:
    source = IntentionSource(
        name=wish.source, action=wish.action, expires_at=wish.expires_at, reason=wish.reason, shadow=wish.shadow
    )
    if held is None or not held.permissions:
        return Amended(source)
    were = "; ".join(permission_words(each) for each in held.permissions)
    return Amended(source, (f"replaces the permissions of {wish.source} -> {wish.destination}: {were}",))


def _part(wish: Wish, http: HttpMatch, held: IntentionSource | None, decides: Rule | None, default: Action) -> Amended:
    pair = f"{wish.source} -> {wish.destination}"
    own = held.permissions if held else ()
    rest, note = own, ""
    if not own and wish.action == "deny":
        rest = _as_now(decides, default)
        note = f"everything else of {pair} stays as it was" if rest else f"{pair} was denied already, any request"
        if held is not None and not rest:
            return Amended(held, (note,))
    elif not own:
        note = _narrowed(pair, decides, default)
    source = IntentionSource(
        name=wish.source,
        permissions=(
            Permission(action=wish.action, http=http),
            *(each for each in rest if not _covers(http, each.http)),
        ),
        expires_at=wish.expires_at or (held.expires_at if held else None),
        reason=wish.reason or (held.reason if held else ""),
        shadow=wish.shadow,
    )
    return Amended(source, tuple(each for each in (note, _ends(pair, held, source)) if each))


def _covers(new: HttpMatch, old: HttpMatch) -> bool:
    """Whether a permission behind one on `new` is never asked any more: it is on the same, or on one spelling of it."""
    return old == new or old.model_copy(update={"ignore_case": True}) == new


def _as_now(decides: Rule | None, default: Action) -> tuple[Permission, ...]:
    """What the source may do now, as permissions."""
    if decides is not None and decides.permissions:
        return decides.permissions
    action = decides.action if decides is not None else default
    return (Permission(action="allow", http=EVERYTHING),) if action == "allow" else ()


def _narrowed(pair: str, decides: Rule | None, default: Action) -> str:
    """What an allowed request takes away: whatever else the source may do until now."""
    if not _as_now(decides, default):
        return ""
    by = f"intention {decides.id}" if decides else "the mesh's default"
    return f"until now {by} allowed more: {pair} may now send nothing but such requests"


def _ends(pair: str, held: IntentionSource | None, source: IntentionSource) -> str:
    """An intention ends as a whole: say so where a permission joins one that has an end, or gives it one."""
    if held is None or source.expires_at is None or (held.permissions == () and held.expires_at is None):
        return ""
    return f"{pair} has one end for all its permissions: {moment(source.expires_at)}"
