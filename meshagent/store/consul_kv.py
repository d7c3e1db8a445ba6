"""What Consul's key-value calls say, as values: transactions and their answers, entries, differences. No I/O.

Forms and answers measured on 1.8.7, which later releases keep.
"""

from __future__ import annotations

import base64
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from meshagent.errors import Conflict, LeaseLost, MeshError, StoreDenied, StoreUnavailable
from meshagent.store.base import Changes, Delete, Entry, Expect, Operation, Put, Scope

# Consul takes 64 operations in a transaction; a Put is two of them.
TRANSACTION = 64
MAX_OPERATIONS = 32
# A transaction is at most 512 KiB of JSON, in which a value takes 4/3 of its size and each key comes twice.
MAX_VALUE = 380 * 1024
# No key of ours ends in a slash, so nobody writes this one: it shows whether a tree may be read. Consul refuses paths
# with control characters.
PROBE = "~nothing~is~ever~kept~here~/"
_REMEMBERED = 8

Revisions = Mapping[str, int]
Form = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """One operation of a transaction, and what it was asked for."""

    form: Form
    operation: Operation

    @property
    def writes(self) -> bool:
        """Whether it changes the store."""
        return self.form["KV"]["Verb"] in ("set", "lock", "delete")


def steps_of(operations: Sequence[Operation]) -> list[Step]:
    """A commit as a transaction: first what it expects, then what it writes.

    A Put removes the key first, since `set` leaves it bound to the session that it had and `lock` fails on another's.
    Consul tells the revision of what it set alone, so the first key of a commit that only deletes is set before.
    """
    expected = [operation for operation in operations if isinstance(operation, Expect)]
    absent = {expect.key for expect in expected if not expect.revision}
    steps = [Step(_expectation(expect), expect) for expect in expected]
    if (deletes := [each for each in operations if isinstance(each, Delete)]) and not _puts(operations):
        steps.append(Step(_form("set", deletes[0].key, Value=""), deletes[0]))
    steps += [Step(_form("delete", each.key), each) for each in deletes]
    for put in _puts(operations):
        if put.key not in absent:
            steps.append(Step(_form("delete", put.key), put))
        steps.append(Step(_writing(put), put))
    return steps


def revision_of(answer: Mapping[str, Any]) -> int:
    """The revision that a transaction made, 0 for none."""
    return max((int(result["KV"]["ModifyIndex"]) for result in answer.get("Results") or ()), default=0)


def refusal_of(steps: Sequence[Step], answer: Mapping[str, Any]) -> MeshError:
    """Why Consul rolled a transaction back."""
    errors = answer.get("Errors") or ()
    if not errors:
        return StoreUnavailable("Consul refused a transaction and did not say why.", next_step="Look at its log.")
    place, said = int(errors[0]["OpIndex"]), str(errors[0]["What"])
    step = steps[place] if 0 <= place < len(steps) else None
    key = step.operation.key if step else "?"
    if "ermission denied" in said:
        return denied(key, "write" if step and step.writes else "read")
    if step and isinstance(step.operation, Expect):
        return Conflict(f"{key} has changed meanwhile ({said}).", next_step="Read again and retry.")
    if "invalid session" in said:
        return LeaseLost("The lease has ended.", next_step="Make a new lease and write its keys again.")
    if "lock" in said:
        return StoreUnavailable(f"{key}: {said}", next_step="Wait for the lock delay to end.")
    return StoreDenied(f"Consul refuses {key}: {said}", next_step="See Consul's log.")


def denied(key: str, right: str) -> StoreDenied:
    """The error for want of a right on a key or tree."""
    kind = "key_prefix" if not key or key.endswith("/") else "key"
    return StoreDenied(
        f"The token may not {right} {key or 'every key'}.",
        next_step=f'Give its policy: {kind} "{key}" {{ policy = "{right}" }}',
    )


@dataclass(frozen=True, slots=True)
class Part:
    """A key or tree, and the operations that read it."""

    name: str
    forms: tuple[Form, ...]


def tree_part(tree: str) -> Part:
    """Reads a tree, and fails where it may not be read: Consul leaves out in silence what a token may not see."""
    return Part(tree, (probe_of(tree), _form("get-tree", tree)))


def key_part(key: str, *, there: bool) -> Part:
    """Reads a key that is there, or shows that it is not; fails when it is the other way round."""
    return Part(key, (_form("get" if there else "check-not-exists", key),))


def parts_of(scope: Scope, there: AbstractSet[str]) -> list[Part]:
    """What reads a scope of which these keys are there."""
    keys = [key_part(key, there=key in there) for key in sorted(scope.keys)]
    return keys + [tree_part(tree) for tree in sorted(scope.trees)]


def probe_of(tree: str) -> Form:
    """Changes and reads nothing; refused where the tree may not be read."""
    return _form("check-not-exists", tree + PROBE)


def rounds_of(parts: Iterable[Part]) -> list[list[Part]]:
    """The parts in as few transactions as there can be."""
    rounds: list[list[Part]] = []
    size = TRANSACTION
    for part in parts:
        if size + len(part.forms) > TRANSACTION:
            rounds.append([])
            size = 0
        rounds[-1].append(part)
        size += len(part.forms)
    return rounds


def misjudged(parts: Sequence[Part], answer: Mapping[str, Any]) -> frozenset[str]:
    """The keys of which a refused reading took the wrong one of there and not there. Raises StoreDenied."""
    names = [part.name for part in parts for _ in part.forms]
    for error in answer.get("Errors") or ():
        if not (error["What"].endswith((" exists", "doesn't exist"))):
            raise _unreadable(names[error["OpIndex"]], str(error["What"]))
    return frozenset(names[error["OpIndex"]] for error in answer.get("Errors") or ())


def found_of(parts: Sequence[Part], answer: Mapping[str, Any], scope: Scope) -> dict[str, Entry]:
    """What a reading found. Raises StoreDenied when a key is missing that was read: Consul hid it."""
    found = entries_of((result["KV"] for result in answer.get("Results") or ()), scope)
    for part in parts:
        if part.forms[0]["KV"]["Verb"] == "get" and part.name not in found:
            raise denied(part.name, "read")
    return found


def _unreadable(name: str, said: str) -> StoreDenied:
    if "ermission denied" in said:
        return denied(name, "read")
    return StoreDenied(f"Consul refuses to read {name}: {said}", next_step="See Consul's log.")


def entry_of(form: Mapping[str, Any]) -> Entry:
    """An entry as Consul writes it."""
    return Entry(str(form["Key"]), base64.b64decode(form["Value"] or ""), int(form["ModifyIndex"]))


def entries_of(forms: Iterable[Mapping[str, Any]], scope: Scope) -> dict[str, Entry]:
    """The entries of a scope. What others keep beside it, such as the folder keys of Consul's UI, is left out."""
    return {str(form["Key"]): entry_of(form) for form in forms if str(form["Key"]) in scope}


def revisions_of(entries: Mapping[str, Entry]) -> dict[str, int]:
    """What has to be remembered of a content to find what changed."""
    return {key: entry.revision for key, entry in entries.items()}


def difference(before: Revisions, entries: Mapping[str, Entry], revision: int) -> Changes:
    """What happened between a content, of which the revisions are known, and the one at `revision`."""
    return Changes(
        revision,
        tuple(entry for key, entry in entries.items() if before.get(key) != entry.revision),
        tuple(key for key in before if key not in entries),
    )


class Memory:
    """What this client saw at which revision, since Consul keeps no history: the newest few scopes, without values."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[Scope, int], Revisions] = OrderedDict()

    def keep(self, scope: Scope, revision: int, content: Revisions, *, instead_of: int = 0) -> None:
        """Remember that this was all of the scope at the revision, and no more what was at another one."""
        self._seen.pop((scope, instead_of), None)
        self._seen[scope, revision] = content
        self._seen.move_to_end((scope, revision))
        while len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)

    def recall(self, scope: Scope, revision: int) -> Revisions | None:
        """All of the scope at the revision, or None when that is not known."""
        for (seen, at), content in reversed(self._seen.items()):
            if at == revision and covers(seen, scope):
                return content if seen == scope else {key: made for key, made in content.items() if key in scope}
        return None

    def forget(self) -> None:
        """Know nothing any more."""
        self._seen.clear()


def covers(outer: Scope, inner: Scope) -> bool:
    """Whether all that the inner scope covers is covered by the outer one."""
    trees = all(tree in outer.trees or f"{tree}{PROBE}" in outer for tree in inner.trees)
    return trees and all(key in outer for key in inner.keys)


def _puts(operations: Sequence[Operation]) -> list[Put]:
    return [operation for operation in operations if isinstance(operation, Put)]


def _form(verb: str, key: str, **more: object) -> Form:
    return {"KV": {"Verb": verb, "Key": key, **more}}


def _expectation(expect: Expect) -> Form:
    if not expect.revision:
        return _form("check-not-exists", expect.key)
    return _form("check-index", expect.key, Index=expect.revision)


def _writing(put: Put) -> Form:
    value = base64.b64encode(put.value).decode()
    if put.lease is None:
        return _form("set", put.key, Value=value)
    return _form("lock", put.key, Value=value, Session=put.lease)
