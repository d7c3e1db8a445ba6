"""What a CA of ours signed and refused: one JSON line each, only ever appended, mode 0600."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from meshagent.private import append_private

MAX_TEXT = 300  # characters kept of what a stranger sent


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditLine:
    """One verdict. `serial` is hex; `key_sha256` names the public key (DER); `ttl_seconds` is what was granted.

    `by` is who asked (a host, a Nomad workload, the id of a join token), `address` from where: of an authority's alone.
    """

    when: datetime
    spiffe_id: str
    verdict: Literal["signed", "refused", "granted"]
    serial: str = ""
    key_sha256: str = ""
    ttl_seconds: float = 0
    reason: str = ""
    by: str = ""
    address: str = ""


def write_audit(path: Path, line: AuditLine) -> None:
    """Appends the line and returns when it is on disk; raises UnsafeFile and DataDirUnusable.

    JSON escapes every control character, so whatever was asked for stays one line.
    """
    record = asdict(line) | {
        "when": line.when.isoformat(),
        "spiffe_id": line.spiffe_id[:MAX_TEXT],
        "reason": line.reason[:MAX_TEXT],
        "by": line.by[:MAX_TEXT],
    }
    for key in ("by", "address"):
        if not record[key]:
            del record[key]
    append_private(path, json.dumps(record, sort_keys=True).encode() + b"\n")
