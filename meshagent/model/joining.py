"""The join line: everything that a new host needs to find the mesh's authority, to know it, and to be let in once.

`mesh1.` and base64url (without padding) of a JSON object, so that it is one word which survives chat, mail and shells.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field

from meshagent.model.names import check_trust_domain

PREFIX = "mesh1."
MAX_LENGTH = 4096
_FINGERPRINT = re.compile(r"sha256:[0-9a-f]{64}")
_PLACE = re.compile(r"(\[[0-9a-f:.]+\]|[A-Za-z0-9.-]{1,253}):([0-9]{1,5})")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{20,200}")
_KEYS = {"a", "d", "f", "t"}
_HIGHEST_PORT = 65535


@dataclass(frozen=True, slots=True)
class JoinLine:
    """`addresses` are host:port of authorities; `fingerprint` is `sha256:` and the hex digest of a root (DER)."""

    addresses: tuple[str, ...]
    fingerprint: str
    token: str = field(repr=False)
    trust_domain: str

    def text(self) -> str:
        """The line. It is a secret: whoever has it first is that host."""
        value = {"a": list(self.addresses), "d": self.trust_domain, "f": self.fingerprint, "t": self.token}
        packed = json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
        return PREFIX + base64.urlsafe_b64encode(packed).decode().rstrip("=")


def parse_join_line(text: str) -> JoinLine:
    """The line back. Raises ValueError, whose message repeats nothing of the line."""
    line = text.strip()
    if not line.startswith(PREFIX) or len(line) > MAX_LENGTH:
        raise ValueError(f"is not a join line, which begins with {PREFIX}")
    packed = line.removeprefix(PREFIX)
    try:
        value = json.loads(base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_", validate=True))
    except (ValueError, RecursionError):
        raise ValueError("is damaged: it was not copied whole") from None
    if not isinstance(value, dict) or set(value) != _KEYS or not isinstance(value["a"], list) or not value["a"]:
        raise ValueError("is not one that this version reads")
    texts = (*value["a"], value["d"], value["f"], value["t"])
    if not all(isinstance(each, str) for each in texts):
        raise ValueError("is not one that this version reads")
    if not _FINGERPRINT.fullmatch(value["f"]) or not _TOKEN.fullmatch(value["t"]):
        raise ValueError("is damaged: its fingerprint or its token is not whole")
    addresses = tuple(check_place(each) for each in value["a"])
    return JoinLine(addresses, value["f"], value["t"], check_trust_domain(value["d"]))


def check_place(text: str) -> str:
    """`host:port` of an authority; raises ValueError."""
    match = _PLACE.fullmatch(text)
    if not match or not 0 < int(match[2]) <= _HIGHEST_PORT:
        raise ValueError("must be host:port, such as 10.0.0.5:8443")
    return text
