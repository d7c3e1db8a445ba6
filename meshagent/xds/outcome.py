"""What became of the pushes, as values."""

from __future__ import annotations

from dataclasses import dataclass

_DUMP_MARKS = ("goo.gle/debug", "inline_string", "inline_bytes", "PRIVATE KEY")
_WITHHELD = "the client's words are withheld: they hold a copy of the resource, which may be a key"


@dataclass(frozen=True, slots=True)
class Applied:
    """Everything subscribed to, up to and including `generation`, has been applied, or rejected (see Rejected).

    Applied is what the client calls accepted: Envoy's workers take up a new listener a few milliseconds later.
    """

    generation: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """The client refused these resources, for the reason in `message`; what it accepted before stays in use.

    `generation` is the cache's at the time of the push.
    """

    type_url: str
    names: tuple[str, ...]
    message: str
    generation: int


Outcome = Applied | Rejected


def reason(words: str) -> str:
    """The reason at the end of what a client says of a rejection, fit for logs and reports.

    When Envoy's check of a message fails, it puts a dump of the whole resource before its reason, private keys and
    passwords included (seen with Envoy 1.40), and cuts the text at 4 KiB, sometimes before the reason.
    """
    text = words.rpartition("\n: ")[2].strip()
    return _WITHHELD if any(mark in text for mark in _DUMP_MARKS) else text
