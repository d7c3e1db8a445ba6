"""Whether a name is outside the mesh, asked of the store itself."""

from __future__ import annotations

from meshagent.errors import UsageProblem
from meshagent.state.keys import Keys
from meshagent.state.records import Manifest, PolicyRecord, UnreadableRecord, decode
from meshagent.store.base import Store


async def refuse_outside(store: Store, keys: Keys, name: str) -> None:
    """Raise UsageProblem where a document in force says that the name is outside the mesh: no service can have it then.

    Raises StoreUnavailable, StoreDenied. What cannot be read says nothing.
    """
    key = keys.document("external", name)
    entries = (await store.read(keys.manifest, key)).entries
    if key not in entries or keys.manifest not in entries:
        return
    try:
        manifest = decode(Manifest, entries[keys.manifest].value)
        told = decode(PolicyRecord, entries[key].value).at(manifest.revision)
    except UnreadableRecord:
        return
    if told and told.document is not None:
        raise UsageProblem(
            f"{name} is a name outside the mesh (kind: external), and callers of it are led there: no service can have it",
            next_step=f"choose another name, or first: meshagent policy delete external {name}",
        )
