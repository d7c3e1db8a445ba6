"""What a watch of single keys knows to be in etcd: the revision of each, and the transaction that proves that it is so. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from meshagent.store.etcd_kv import MAX_OPERATIONS, Keys
from meshagent.wire import etcd_pb2 as pb
from meshagent.wire.etcd_watch import Range

# So many keys that changed last are read with every check: they may well change together again.
LIKELY = 16


class Holding:
    """The last write of each of several keys, 0 for one that is absent."""

    def __init__(self, ranges: Iterable[Range]) -> None:
        self.revisions: dict[bytes, int] = {each.key: 0 for each in ranges}
        self._expected = {key: _expectation(key, 0) for key in self.revisions}
        self._likely: OrderedDict[bytes, None] = OrderedDict()

    @property
    def keys(self) -> Keys:
        """The keys that are there, range by range."""
        return tuple(frozenset({key} if revision else ()) for key, revision in self.revisions.items())

    def take(self, revisions: Mapping[bytes, int]) -> None:
        """Hold this of some keys from now on."""
        for key, revision in revisions.items():
            self.revisions[key] = self._expected[key].mod_revision = revision

    def note(self, keys: Iterable[bytes]) -> None:
        """These changed: read them next time."""
        for key in keys:
            self._likely[key] = None
            self._likely.move_to_end(key)
        while len(self._likely) > LIKELY:
            self._likely.popitem(last=False)

    def asks(self, told: Mapping[bytes, int]) -> tuple[frozenset[bytes], list[pb.TxnRequest]]:
        """The keys that are read, and the transactions that read them if all others are as held, or as `told`."""
        read = frozenset(self._likely) - told.keys()
        news = {key: _expectation(key, revision) for key, revision in told.items()}
        expected = [news.get(key, each) for key, each in self._expected.items() if key not in read]
        reads = [pb.RequestOp(request_range=pb.RangeRequest(key=key, serializable=True)) for key in sorted(read)]
        asks = [
            pb.TxnRequest(compare=expected[start : start + MAX_OPERATIONS])
            for start in range(0, max(1, len(expected)), MAX_OPERATIONS)
        ]
        asks[0].success.extend(reads)
        return read, asks


def _expectation(key: bytes, revision: int) -> pb.Compare:
    return pb.Compare(target=pb.Compare.MOD, key=key, mod_revision=revision)
