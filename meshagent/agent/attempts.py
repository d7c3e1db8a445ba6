"""What became of the orders for a certificate: kept on disk, so that a restart asks no CA sooner than it may be asked."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from pydantic import ValidationError

from meshagent.errors import MeshError, NotFound
from meshagent.model.certificate import Acme
from meshagent.model.names import Model
from meshagent.private import read_private, write_private

_log = structlog.get_logger(__name__)
_LONGEST_WAIT = timedelta(days=1)
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


class Attempts(Model):
    """What became of one certificate's orders.

    `got`: by which order the one that is here was made. `failed`: which one failed, how often and why, and until when the
    CA is left alone.
    """

    got: str = ""
    failed: str = ""
    failures: int = 0
    not_before: datetime = _NEVER
    problem: str = ""

    def wait(self, asked: Acme, now: datetime) -> datetime | None:
        """Until when this order is put off, if it is. Another order than the one that failed is not.

        Further off than any pause means that the clock went back.
        """
        waits = self.failed == digest_of(asked) and now < self.not_before <= now + _LONGEST_WAIT
        return self.not_before if waits else None

    def failed_at(self, asked: Acme) -> int:
        """How often this order failed without a success since."""
        return self.failures if self.failed == digest_of(asked) else 0


def digest_of(asked: Acme) -> str:
    """Tells orders apart."""
    return hashlib.sha256(asked.model_dump_json().encode()).hexdigest()[:16]


def kept_attempts(path: Path) -> Attempts:
    """What an earlier agent kept; nothing where there is none, or it cannot be read."""
    try:
        return Attempts.model_validate_json(read_private(path))
    except NotFound:
        return Attempts()
    except (MeshError, ValidationError) as error:
        _log.warning("gateway_attempts_unusable", path=str(path), problem=str(error))
        return Attempts()


def keep_attempts(path: Path, attempts: Attempts) -> None:
    """Keep it. Raises UnsafeFile, DataDirUnusable."""
    write_private(path, attempts.model_dump_json().encode())
