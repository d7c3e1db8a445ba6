"""A mapping of the source that remembers which of its fields were looked at: the others are reported, never lost.

Names are compared without case and underscores: PathPrefix, path_prefix and pathPrefix are one field (Consul writes all
three, and Istio's and Kuma's readers take protobuf's two).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from meshagent.documents.compose import Path
from meshagent.importing.ledger import Ledger, Misfit, Verdict
from meshagent.importing.spans import span

UNKNOWN = "is not known to this import: nothing was made of it"


def fold(name: str) -> str:
    """What is compared of a field's name."""
    return name.replace("_", "").lower()


class Fields:
    """One mapping at `path` of an object. Everything that reads a value marks it as looked at.

    Raises Misfit where a value is not of the kind that is asked for, and where a field is given in two spellings.
    """

    def __init__(self, ledger: Ledger, data: Mapping[str, Any], path: Path = ()) -> None:
        self.ledger = ledger
        self.path = path
        self._data = data
        self._names: dict[str, str] = {}
        self._seen: set[str] = set()
        self._below: list[Fields] = []
        for key in data:
            if fold(key) in self._names:
                raise Misfit((*path, key), f"is given twice, also as {self._names[fold(key)]}")
            self._names[fold(key)] = key

    def __contains__(self, name: str) -> bool:
        return self._value(name) is not None

    def __bool__(self) -> bool:
        return any(value is not None for value in self._data.values())

    def _value(self, name: str) -> Any:
        key = self._names.get(fold(name))
        return None if key is None else self._data[key]

    def at(self, name: str) -> Path:
        """The path of a field, in the source's own spelling."""
        return (*self.path, self._names.get(fold(name), name))

    def take(self, name: str) -> Any:
        """The plain value, None where there is none."""
        self._seen.add(fold(name))
        return self._value(name)

    def _typed(self, name: str, fits: Callable[[Any], bool], words: str) -> Any:
        value = self.take(name)
        if value is not None and not fits(value):
            raise Misfit(self.at(name), f"must be {words}")
        return value

    def text(self, name: str) -> str | None:
        """A text; a number is taken for the text that it was written as."""
        value = self._typed(name, lambda each: isinstance(each, str | int | float), "text")
        if isinstance(value, bool):
            return "true" if value else "false"
        return None if value is None else str(value)

    def one_of(self, name: str, *allowed: str) -> str | None:
        """One of these words, in whatever case; None where there is none."""
        value = self.text(name)
        found = next((each for each in allowed if value is not None and each.lower() == value.lower()), None)
        if value is not None and found is None:
            raise Misfit(self.at(name), f"must be one of {', '.join(allowed)}, not {value!r}")
        return found

    def integer(self, name: str) -> int | None:
        """A whole number, also one in quotes."""
        value = self.take(name)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 18:
            return int(value)
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if value is not None and (isinstance(value, bool) or not whole):
            raise Misfit(self.at(name), "must be a whole number")
        return None if value is None else int(value)

    def number(self, name: str) -> float | None:
        """A number, also one in quotes."""
        value = self.take(name)
        try:
            if value is None or isinstance(value, bool):
                raise ValueError
            return float(value)
        except (TypeError, ValueError, OverflowError):
            if value is not None:
                raise Misfit(self.at(name), "must be a number") from None
        return None

    def flag(self, name: str) -> bool:
        """True or false; false where there is none."""
        return bool(self._typed(name, lambda each: isinstance(each, bool), "true or false"))

    def span(self, name: str) -> str | None:
        """A duration, in our spelling."""
        value = self.take(name)
        if value is None:
            return None
        try:
            return span(value)
        except ValueError as error:
            raise Misfit(self.at(name), str(error)) from None

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts; one text is a list of one."""
        value = self.take(name)
        values = [] if value is None else value if isinstance(value, list) else [value]
        if any(isinstance(each, dict | list) or each is None for each in values):
            raise Misfit(self.at(name), "must be a list of texts")
        return tuple(str(each) for each in values)

    def sub(self, name: str) -> Fields:
        """A mapping; an empty one where there is none."""
        value = self.take(name)
        if isinstance(value, list) and len(value) == 1:  # how HCL's JSON writes a block
            value = value[0]
        if value is not None and not isinstance(value, dict):
            raise Misfit(self.at(name), "must be a mapping of fields")
        return self._made(value or {}, self.at(name))

    def each(self, name: str) -> tuple[Fields, ...]:
        """A list of mappings; one mapping is a list of one (a block of HCL that comes once)."""
        value = self.take(name)
        values = [] if value is None else value if isinstance(value, list) else [value]
        for index, item in enumerate(values):
            if item is not None and not isinstance(item, dict):
                raise Misfit((*self.at(name), index), "must be a mapping of fields")
        return tuple(self._made(item or {}, (*self.at(name), index)) for index, item in enumerate(values))

    def members(self, name: str) -> dict[str, Fields]:
        """A mapping whose names are the person's own, with mappings in it."""
        inner = self.sub(name)
        return {key: inner.sub(key) for key in inner.keys()}  # noqa: SIM118 # Fields is no mapping

    def table(self, name: str) -> dict[str, str]:
        """A mapping of the person's own names to texts."""
        value = self.take(name)
        if value is None:
            return {}
        if not isinstance(value, dict) or any(isinstance(each, dict | list) for each in value.values()):
            raise Misfit(self.at(name), "must be a mapping of texts")
        return {key: "" if each is None else str(each) for key, each in value.items()}

    def keys(self) -> Iterator[str]:
        """The names of the fields, as they are written."""
        return iter(self._data)

    def _made(self, data: Mapping[str, Any], path: Path) -> Fields:
        made = Fields(self.ledger, data, path)
        self._below.append(made)
        return made

    def tell(self, verdict: Verdict, message: str, name: str | None = None) -> None:
        """Note a finding on a field, or on the whole."""
        self.ledger.tell(self.path if name is None else self.at(name), verdict, message)

    def ignore(self, *names: str) -> None:
        """These say nothing about traffic: names, labels and what a server computes."""
        self._seen.update(map(fold, names))

    def leave(self, reason: str, *names: str) -> bool:
        """Whether one of these is there; each that is gets reported with the reason, and not looked into."""
        found = [name for name in names if name in self]
        self.ignore(*names)
        for name in found:
            self.tell("left out", reason, name)
        return bool(found)

    def drop(self, reason: str, verdict: Verdict = "left out") -> None:
        """All of it is left out, for one reason."""
        self.tell(verdict, reason)
        self._seen.update(self._names)
        self._below.clear()

    def leftovers(self, words: Mapping[str, str]) -> None:
        """Note every field here and below that nobody looked at; `words` says more of some, by their folded names."""
        for key, name in self._names.items():
            if key not in self._seen and self._data[name] is not None:
                self.tell("left out", words.get(key, UNKNOWN), name)
        for each in self._below:
            each.leftovers(words)
