"""Which Envoy follows which with the same sockets: hot restart, as Envoy's command line says it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

BASE_IDS = (
    1 << 27
)  # Envoy takes ten times the number as an int of 32 bits, and gives its files a name that wraps past it
LONGEST_SOCKET = 107  # bytes: sun_path of unix(7)
_MEMORY = Path("/dev/shm")  # noqa: S108 - where shm_open(3) makes what Envoy shares, whatever we think of it
_OFF = "--disable-hot-restart"
_BASE, _EPOCH, _SOCKETS, _PATIENCE = "--base-id", "--restart-epoch", "--socket-path", "--parent-shutdown-time-s"
_NO_STATS = "--skip-hot-restart-parent-stats"
_PAIRS = (_BASE, _EPOCH, _SOCKETS, "--socket-mode", _PATIENCE)
_LONGEST_ENDING = "_udp_parent_1342177279"


@dataclass(frozen=True, slots=True)
class Lineage:
    """One of a row of Envoys, each of which takes over the listening sockets of the one before.

    `base_id` is what a row has in common, below BASE_IDS; `epoch` counts from 0. They talk over datagram sockets whose
    paths begin with `sockets`. `patience`: seconds after which the one before is ended, whatever is under way there.
    """

    base_id: int
    epoch: int
    sockets: Path
    patience: int

    def following(self, patience: int) -> Lineage:
        """The next one."""
        return replace(self, epoch=self.epoch + 1, patience=patience)

    def arguments(self) -> list[str]:
        """As Envoy wants to be told. Without a path its sockets would be abstract ones, which any user may talk to.

        It does not ask the one before for its counters: where that was killed, it waits for the answer for ever (measured).
        """
        return [
            *(_BASE, str(self.base_id), _EPOCH, str(self.epoch), _SOCKETS, str(self.sockets)),
            *("--socket-mode", "600", _PATIENCE, str(self.patience), _NO_STATS),
        ]

    @property
    def listens_at(self) -> Path:
        """Where the one after it speaks to it. Three of a row have paths of their own."""
        return self.sockets.with_name(f"{self.sockets.name}_parent_{self.base_id * 10 + self.epoch % 3}")

    @property
    def memory(self) -> Path:
        """The shared memory of the row: 104 bytes that Envoy leaves behind."""
        return _MEMORY / f"envoy_shared_memory_{self.base_id * 10}"

    @property
    def fits(self) -> bool:
        """Whether the paths of its sockets are short enough."""
        return len(str(self.sockets).encode()) + len(_LONGEST_ENDING) <= LONGEST_SOCKET


def hot_restart(lineage: Lineage | None) -> list[str]:
    """The arguments that say so; None: such an Envoy can only be stopped and started."""
    return lineage.arguments() if lineage else [_OFF]


def lineage_of(arguments: Sequence[str]) -> Lineage | None:
    """What a command line says of it; None: nothing."""
    told = dict(pairwise(arguments))
    try:
        return Lineage(int(told[_BASE]), int(told[_EPOCH]), Path(told[_SOCKETS]), int(told[_PATIENCE]))
    except (KeyError, ValueError):
        return None


def without_lineage(arguments: Sequence[str]) -> list[str]:
    """The same whatever the row and the place in it: what else an Envoy does is all that makes it another."""
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        if word in _PAIRS:
            next(words, None)
        if word not in (*_PAIRS, _NO_STATS, _OFF):
            kept.append(word)
        elif _OFF not in kept:
            kept.append(_OFF)
    return kept


def with_lineage(arguments: Sequence[str], lineage: Lineage) -> list[str]:
    """The same command line at this place of the row."""
    return [each for word in without_lineage(arguments) for each in (lineage.arguments() if word == _OFF else [word])]
