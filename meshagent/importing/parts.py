"""What one object of the source gives to our documents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from meshagent.documents.read import Tree
from meshagent.importing.fields import Fields
from meshagent.importing.ledger import Ledger, Misfit
from meshagent.importing.names import Names

Data = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """`service`: fields of a service document. `rule`: one rule of a route. `default`: for all rules of a route.

    `source`: one source of an intention document. `fields` is where it comes from, for what is to be said of it.
    """

    kind: Literal["service", "rule", "default", "source"]
    name: str
    data: Data
    fields: Fields


@dataclass(slots=True)
class Source:
    """One object of the source. `body` has its settings; `whole` is all of it."""

    kind: str
    name: str
    space: str
    whole: Fields
    body: Fields
    labels: dict[str, str]
    settled: bool = False  # it says what holds here anyway
    given: int = 0  # how many of its parts are in our documents

    @property
    def ledger(self) -> Ledger:
        """Where its notes are kept."""
        return self.whole.ledger

    def refuse(self, misfit: Misfit) -> None:
        """The object is refused as a whole."""
        self.ledger.tell(misfit.path, "invalid", misfit.message)
        self.whole.drop("the object is refused, so nothing of it was imported", "not imported")

    def known(self, message: str) -> None:
        """It asks for what holds here anyway."""
        self.ledger.tell((), "changed", message)
        self.settled = True


Converter = Callable[[Source, Names], Iterable[Part]]


@dataclass(slots=True)
class Gathered:
    """All parts, and the objects that they come from."""

    parts: list[Part] = field(default_factory=list)

    def take(self, source: Source, names: Names, converter: Converter) -> bool:
        """Add what a converter makes of an object: all of it, or nothing when it is not what its mesh would take."""
        try:
            found = list(converter(source, names))
        except Misfit as misfit:
            source.refuse(misfit)
            return False
        self.parts += found
        return True


def body_of(tree: Tree, file: str) -> Iterator[Source]:
    """The objects of one document in Kubernetes' form or Kuma's own; a List has several."""
    items = tree.data.get("items")
    if tree.data.get("kind") == "List" and isinstance(items, list):
        for index, item in enumerate(items):
            if isinstance(item, dict):
                yield described(Tree(item, tree.lines), file, ("items", index))
        return
    yield described(tree, file)


def described(tree: Tree, file: str, root: tuple[str | int, ...] = ()) -> Source:
    """An object with kind (or type), metadata and spec."""
    ledger = Ledger(file, str(tree.data.get("kind") or tree.data.get("type") or "object"), tree.lines, root)
    whole = Fields(ledger, tree.data)
    whole.ignore("apiVersion", "kind", "type", "mesh", "status", "creationTime", "modificationTime")
    head = tree.data.get("metadata")
    meta = head if isinstance(head, dict) else tree.data
    whole.ignore("metadata", "name", "labels")
    notes = {key: str(value) for part in ("labels", "annotations") for key, value in _table(meta.get(part))}
    name, space = str(meta.get("name") or ""), str(meta.get("namespace") or "default")
    ledger.thing = " ".join(filter(None, (ledger.thing, f"{space}/{name}" if head else name)))
    kind = str(tree.data.get("kind") or tree.data.get("type") or "")
    source = Source(kind, name, space, whole, Fields(ledger, {}), notes)
    try:
        source.body = whole.sub("spec")
    except Misfit as misfit:
        source.refuse(misfit)
    return source


def _table(value: object) -> Iterable[tuple[str, Any]]:
    return value.items() if isinstance(value, dict) else ()
