"""What the policy was: the history in the store, and the way back to a revision."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from meshagent.errors import NotFound
from meshagent.model.kinds import KINDS, Document
from meshagent.model.world import Origin, Stated
from meshagent.state.changes import Author, Documents, Name
from meshagent.state.keys import Keys
from meshagent.state.records import HistoryRecord, Revised, UnreadableRecord, decode, document_of
from meshagent.store.base import Store


async def read_histories(store: Store, keys: Keys) -> tuple[tuple[HistoryRecord, ...], Mapping[str, str]]:
    """(all revisions that can be read, the oldest first; problems by key). Raises StoreUnavailable, StoreDenied.

    A history is written with the manifest, in one transaction, so a change that did not come to its end has none.
    """
    entries = (await store.read(keys.histories)).entries
    found: list[HistoryRecord] = []
    problems: dict[str, str] = {}
    for key in sorted(entries):
        try:
            record = decode(HistoryRecord, entries[key].value)
            if keys.history(record.revision) != key:
                raise UnreadableRecord(f"is kept under another revision than its own ({record.revision})")
        except UnreadableRecord as error:
            problems[key] = str(error)
            continue
        found.append(record)
    return tuple(found), problems


def undone(
    documents: Documents, histories: Sequence[HistoryRecord], revision: int, now: int, by: Author
) -> dict[Name, Stated[Document] | None]:
    """The edits that make the documents (of revision `now`) what they were at `revision`; None: absent then.

    Raises NotFound where the history between the two has a gap, or holds what this version cannot read.
    """
    kept = {each.revision: each for each in histories}
    wanted: dict[Name, dict[str, object] | None] = {}
    for number in range(now, revision, -1):
        if number not in kept:
            raise NotFound(
                f"the history of revision {number} is not there, so revision {revision} cannot be put together",
                next_step="meshagent policy history lists what there is",
            )
        wanted |= {(edit.kind, edit.name): edit.before for edit in kept[number].edits}
    return {
        name: _stated(name, data, revision, by) for name, data in wanted.items() if _moved(documents.get(name), data)
    }


def _moved(held: Stated[Document] | None, data: Mapping[str, object] | None) -> bool:
    if held is None or data is None:
        return (held is None) != (data is None)
    return held.thing != KINDS[held.thing.kind].model_validate_json(json.dumps(data), strict=True)


def _stated(name: Name, data: dict[str, object] | None, revision: int, by: Author) -> Stated[Document] | None:
    if data is None:
        return None
    try:
        document = document_of(*name, Revised(revision=revision, document=data))
    except (KeyError, UnreadableRecord) as error:
        raise NotFound(
            f"{name[0]} {name[1]} of revision {revision} cannot be read by this version: {error}",
            next_step="use a meshagent of the version that wrote it, or write the document anew",
        ) from None
    return None if document is None else Stated(document, {"": Origin(f"revision {revision}", 0, by.who, by.at)})
