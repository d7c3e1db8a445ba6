"""Which releases of etcd do not hold users to their rights. Pure.

On 3.4.23 a user who may write one tree alone overwrote another's and read a third by a nested transaction, and followed
every key behind its own by a watch without an end (measured). Releases that mend it: etcd's security advisories.
"""

from __future__ import annotations

from dataclasses import dataclass

Version = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Flaw:
    """`mended` are the first good patches, one for a minor release; later minor releases are good."""

    name: str
    what: str
    mended: tuple[Version, ...]

    def holds(self, version: Version) -> bool:
        """Whether a release has it."""
        if version[:2] > self.mended[-1][:2]:
            return False
        return not any(version[:2] == good[:2] and version >= good for good in self.mended)


FLAWS = (
    Flaw("CVE-2026-33343", "nested transactions", ((3, 4, 42), (3, 5, 28), (3, 6, 9))),
    Flaw("CVE-2026-44283", "previous values", ((3, 5, 30), (3, 6, 11))),
    Flaw("CVE-2026-73499", "watches without an end", ((3, 5, 33), (3, 6, 14), (3, 7, 1))),
)
MENDED = "3.5.33, 3.6.14 and 3.7.1"


def version_of(text: str) -> Version:
    """The numbers of `3.5.1` or `3.6.0-rc.2`; empty when there are none."""
    numbers = text.partition("-")[0].partition("+")[0].split(".")
    return tuple(int(number) for number in numbers) if all(number.isdigit() for number in numbers) else ()


def rights_problem(text: str) -> str:
    """What is wrong with the rights of users in this release and what mends it, "" for nothing."""
    version = version_of(text)
    found = [flaw for flaw in FLAWS if not version or flaw.holds(version)]
    if not found:
        return ""
    ways = ", ".join(f"{flaw.what} ({flaw.name})" for flaw in found)
    return (
        f"etcd {text or 'of an unknown version'} does not hold users to their rights: {ways} get past them."
        f" Mended in {MENDED}; until then let an operator's key sign policy (policy_public_keys)."
    )
