"""Who may look: links that are good once, and the sessions that they open."""

from __future__ import annotations

import hashlib
import hmac
from collections import deque
from collections.abc import Callable
from ipaddress import ip_address
from urllib.parse import urlsplit

_SESSIONS = 32  # the oldest is forgotten when one more begins


class Door:
    """`secret` makes one more text that nobody can guess. Of sessions only digests are kept."""

    def __init__(self, secret: Callable[[], str]) -> None:
        self._secret = secret
        self._sessions: deque[bytes] = deque(maxlen=_SESSIONS)
        self.token = secret()

    def enter(self, token: str) -> str | None:
        """A session for the token, which is used up by that: `token` is another one then. None: that is not it."""
        if not hmac.compare_digest(token.encode(), self.token.encode()):
            return None
        self.token = self._secret()
        session = self._secret()
        self._sessions.append(_digest(session))
        return session

    def knows(self, authorization: str) -> bool:
        """Whether an Authorization header names a session."""
        scheme, _, session = authorization.partition(" ")
        return scheme == "Bearer" and _digest(session) in self._sessions


def is_near(host: str) -> bool:
    """Whether a Host header names this machine itself, on whatever port.

    Another name that leads here is somebody's who would like the browser to take his page for ours (DNS rebinding).
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


def _digest(session: str) -> bytes:
    return hashlib.sha256(session.encode()).digest()
