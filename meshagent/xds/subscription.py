"""What one client wants and has of one resource type. Bookkeeping only: no order, no nonces, no I/O.

The rules are those of the xDS specification ("How the client specifies what resources to return", "Unsubscribing From
Resources"); where Envoy needs more than the specification says, the comment tells what was seen.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from meshagent.xds.cache import Cache
from meshagent.xds.types import NEVER_REMOVED, WILDCARD_TYPES

WILDCARD = "*"
_JUDGED = ""  # the nonce of what no push under way brings
_UNKNOWN = ""  # the version of what the client may or may not hold


@dataclass(frozen=True, slots=True)
class Push:
    """A response that waits for its verdict. `hold` is the lowest generation that it keeps from being applied, 0: none.

    `generation` is the cache's when it was sent.
    """

    type_url: str
    nonce: str
    versions: Mapping[str, str]
    removed: tuple[str, ...]
    hold: int
    generation: int


@dataclass(frozen=True, slots=True)
class Suspects:
    """Resources of a rejected response that are to be sent apart from the others, to find the one that is refused."""

    names: tuple[str, ...]
    hold: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """The version that the client refused, and why, in its words."""

    version: str
    message: str


@dataclass(frozen=True, slots=True)
class _Sent:
    """What the client will hold when it has dealt with all that is under way, and the push that brought it."""

    version: str
    nonce: str


class Subscription:
    """One resource type on one stream."""

    def __init__(self, type_url: str, cache: Cache) -> None:
        self.type_url = type_url
        self.suspects: list[Suspects] = []
        self.unanswered = False  # a wildcard is owed one answer, even an empty one: else warming waits its 15 s
        self.asked = False  # the client asked for something since the last `compare_all`
        self._applied: dict[str, str] = {}  # what the client accepted last
        self._doubts: dict[str, set[str]] = {}  # what it may hold instead, from responses that it rejected
        self.rejected: dict[str, Refusal] = {}
        self._cache = cache
        self._names: set[str] = set()
        self._wildcard = False
        self._sent: dict[str, _Sent] = {}
        self._dirty: set[str] = set()  # may differ from the cache
        self._owed: set[str] = set()  # to be answered even if nothing differs

    def wants(self, name: str) -> bool:
        """Whether the client is to hear of the resource."""
        return self._wildcard or name in self._names

    @property
    def empty(self) -> bool:
        """Whether the client holds nothing of the type, and nothing is under way to it."""
        return not self._sent

    def count(self) -> int:
        """How many names are subscribed to, with those that the wildcard stands for."""
        if not self._wildcard:
            return len(self._names)
        every = self._cache.names(self.type_url)
        return len(every) + sum(name not in every for name in self._names)

    def applied(self) -> int:
        """How many resources the client holds in a version that is known."""
        return len(self._applied) - sum(bool(found) and name in self._applied for name, found in self._doubts.items())

    def busy(self) -> bool:
        """Whether a look at the cache may find something to send."""
        return bool(self._dirty or self.suspects or self.unanswered)

    def begin(self, names: Collection[str], held: Mapping[str, str]) -> None:
        """The first request of the type on the stream: what the client wants, and the versions that it holds."""
        if not names and self.type_url in WILDCARD_TYPES:
            names = (WILDCARD,)
        self.subscribe(name for name in names if name not in held)
        self._names.update(name for name in names if name in held)
        for name, version in held.items():
            if self.wants(name):
                self._sent[name] = _Sent(version, _JUDGED)
                self._applied[name] = version
                self._dirty.add(name)  # differs from the cache, or is no longer there
        self._owed.difference_update(self._sent)
        self.asked = True

    def subscribe(self, names: Iterable[str]) -> None:
        """The client asks for the names. One that it already had is sent again: it may have forgotten its copy."""
        for name in names:
            self.asked = True
            if name == WILDCARD and self.type_url in WILDCARD_TYPES:
                self._wildcard = self.unanswered = True
                self.rejected.clear()
                self.owe(self._cache.names(self.type_url))
            else:
                self._names.add(name)
                self.rejected.pop(name, None)
                self.owe((name,))

    def unsubscribe(self, names: Iterable[str]) -> None:
        """The client drops the names. One that the wildcard still covers is sent again: Envoy waits for its state."""
        for name in names:
            if name == WILDCARD and self.type_url in WILDCARD_TYPES:
                self._wildcard = False
                self._forget({*self._sent, *self._dirty, *self.rejected} - self._names)
            else:
                self._names.discard(name)
                self._forget((name,))
                if self._wildcard:
                    self.asked = True
                    self.owe((name,))

    def mark(self, name: str) -> None:
        """The resource changed in the cache."""
        self._dirty.add(name)

    def owe(self, names: Iterable[str]) -> None:
        """Has the names sent again, or answered as removed, whatever the client holds."""
        names = tuple(names)
        self._dirty.update(names)
        self._owed.update(names)

    def retry(self) -> int:
        """Forgets what was rejected, so that it is sent once more; returns how many resources that is."""
        count = len(self.rejected)
        self._dirty.update(self.rejected)
        self.rejected.clear()
        return count

    def compare_all(self) -> tuple[list[str], list[str]]:
        """What is to be sent and what is to be called removed, by name; all that is known to be due is then done."""
        due, gone = self.compare(sorted(self._dirty))
        self._dirty.clear()
        self.unanswered = self.asked = False
        return due, gone

    def compare(self, names: Iterable[str]) -> tuple[list[str], list[str]]:
        """The same for these names only."""
        due: list[str] = []
        gone: list[str] = []
        for name in filter(self.wants, names):
            entry = self._cache.entry(self.type_url, name)
            if entry is None:
                if self._is_gone(name):
                    gone.append(name)
            elif self._is_due(name, entry.version):
                due.append(name)
        self._owed.difference_update(due, gone)  # an unknown or rejected one stays owed until there is an answer
        return due, gone

    def pushed(self, push: Push) -> None:
        """The response is on its way."""
        for name, version in push.versions.items():
            self._sent[name] = _Sent(version, push.nonce)
        for name in push.removed:
            self._sent.pop(name, None)

    def accept(self, push: Push) -> None:
        """The client applied all of the response."""
        for name in push.removed:
            self._applied.pop(name, None)
            self._doubts.pop(name, None)
        for name, version in push.versions.items():
            if name in self._sent:  # else it was dropped or removed meanwhile
                self._applied[name] = version
                self._doubts.pop(name, None)

    def successors(self, push: Push) -> set[str]:
        """The nonces of the newer responses that bring resources of this one in another version."""
        last = (self._sent[name].nonce for name in push.versions if name in self._sent)
        return {nonce for nonce in last if nonce != push.nonce}

    def refuse(self, push: Push, message: str) -> bool:
        """The client refused the only resource of the response; False when a newer version is already under way."""
        (name, version), *_ = push.versions.items()
        if not self._is_last(name, push.nonce):
            return False
        doubts = self._doubts.get(name, set())
        doubts.discard(version)  # refused alone: so it was refused among others, too
        if doubts:
            self._sent[name] = _Sent(_UNKNOWN, _JUDGED)
        elif name in self._applied:
            self._sent[name] = _Sent(self._applied[name], _JUDGED)
        else:
            del self._sent[name]
        if self._cache.entry(self.type_url, name):  # else it is gone, and nothing is wrong any more
            self.rejected[name] = Refusal(version, message)
        return True

    def doubt(self, push: Push) -> tuple[str, ...]:
        """The client refused a response of several resources: which of them it now holds is anyone's guess.

        Envoy stops in the middle (EDS, RDS, SDS, ECDS), applies the good ones (CDS), or none (a field out of range),
        cuts its text short, and forgets the versions even of what it applied: a reconnect would send them all again.
        Returns those that are to be sent again, apart from each other.
        """
        for name, version in push.versions.items():
            if self.wants(name):  # also when a newer version is under way: that one may be refused, too
                self._doubts.setdefault(name, set()).add(version)
        names = tuple(name for name in push.versions if self._is_last(name, push.nonce))
        self._sent.update(dict.fromkeys(names, _Sent(_UNKNOWN, _JUDGED)))
        return names

    def _is_gone(self, name: str) -> bool:
        self.rejected.pop(name, None)
        return self.type_url not in NEVER_REMOVED and (name in self._sent or name in self._owed)

    def _is_due(self, name: str, version: str) -> bool:
        refusal = self.rejected.get(name)
        if refusal and refusal.version == version:
            return False
        self.rejected.pop(name, None)
        sent = self._sent.get(name)
        return name in self._owed or sent is None or sent.version != version

    def _is_last(self, name: str, nonce: str) -> bool:
        sent = self._sent.get(name)
        return sent is not None and sent.nonce == nonce

    def _forget(self, names: Iterable[str]) -> None:
        for name in names:
            self._sent.pop(name, None)
            self._applied.pop(name, None)
            self._doubts.pop(name, None)
            self.rejected.pop(name, None)
            self._dirty.discard(name)
            self._owed.discard(name)
