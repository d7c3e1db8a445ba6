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
_MOVED = "failed index check"

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


def readings_of(scope: Scope, there: AbstractSet[str]) -> list[Form]:
    """What reads a scope of which these keys are there. A key that is not is read as a tree, which may be empty.

    `check-not-exists` would say it better, but asks for the right to write.
    """
    keys = [_form("get" if key in there else "get-tree", key) for key in sorted(scope.keys)]
    return keys + [_form("get-tree", tree) for tree in sorted(scope.trees)]


def checks_of(scope: Scope, held: Revisions, asked: AbstractSet[str], sure: AbstractSet[str]) -> list[Form]:
    """As `readings_of` for a content that is known: its keys are compared with it, unless they are `asked` for or `sure`.

    Consul answers a comparison without the value, and names every one that fails.
    """

    def check(key: str) -> Form:
        if key not in held:
            return _form("get-tree", key)
        return _form("get", key) if key in asked else _form("check-index", key, Index=held[key])

    return [*map(check, sorted(scope.keys - sure)), *(_form("get-tree", tree) for tree in sorted(scope.trees))]


def checked_of(forms: Iterable[Form]) -> frozenset[str]:
    """The keys that are compared and not read."""
    return frozenset(str(form["KV"]["Key"]) for form in forms if form["KV"]["Verb"] == "check-index")


def failed_of(forms: Sequence[Form], answer: Mapping[str, Any]) -> tuple[frozenset[str], frozenset[str]]:
    """Which keys are gone, and which were written, when a check was refused. Raises StoreDenied for other reasons."""
    errors = answer.get("Errors") or ()
    moved = frozenset(str(forms[each["OpIndex"]]["KV"]["Key"]) for each in errors if _MOVED in each["What"])
    require_readable(forms, answer)
    return gone_of(forms, {"Errors": [each for each in errors if _MOVED not in each["What"]]}), moved


def probes_of(scope: Scope) -> list[Form]:
    """What shows whether a scope may be read: Consul leaves out of a reading, in silence, what a token may not see.

    `check-index` asks for the right to read one key. All of them fail, each with its reason, and nothing is done.
    """
    return [
        _form("check-index", name, Index=1) for name in (*sorted(scope.keys), *(t + PROBE for t in sorted(scope.trees)))
    ]


def rounds_of(forms: Sequence[Form]) -> list[Sequence[Form]]:
    """The operations in as few transactions as there can be."""
    return [forms[start : start + TRANSACTION] for start in range(0, len(forms), TRANSACTION)]


def require_readable(probes: Sequence[Form], answer: Mapping[str, Any]) -> None:
    """Raise StoreDenied when the probes met a missing right."""
    for error in answer.get("Errors") or ():
        if "ermission denied" in error["What"]:
            raise denied(str(probes[error["OpIndex"]]["KV"]["Key"]).removesuffix(PROBE), "read")


def gone_of(forms: Sequence[Form], answer: Mapping[str, Any]) -> frozenset[str]:
    """The keys that a reading was sure of and that are not there: it was refused. Raises StoreDenied for other reasons."""
    errors = answer.get("Errors") or ()
    for error in errors:
        if not error["What"].endswith("doesn't exist"):
            raise StoreDenied(f"Consul refuses to read: {error['What']}", next_step="See Consul's log.")
    return frozenset(str(forms[error["OpIndex"]]["KV"]["Key"]) for error in errors)


def found_of(forms: Sequence[Form], answer: Mapping[str, Any], scope: Scope) -> dict[str, Entry]:
    """What a reading found. Raises StoreDenied when a key is missing that was there: Consul hid it."""
    found = entries_of((result["KV"] for result in answer.get("Results") or ()), scope)
    for form in forms:
        if form["KV"]["Verb"] == "get" and form["KV"]["Key"] not in found:
            raise denied(str(form["KV"]["Key"]), "read")
    return found


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
