"""Runs in the booted machine, with nothing but the standard library: calls, counts, and says so when it is ended."""

from __future__ import annotations

import http.client
import json
import signal
import sys
import time
from pathlib import Path

EVERY = 0.02
counts = {"ok": 0, "failed": 0}
going = [True]


def once(connection: http.client.HTTPConnection) -> None:
    """One request, sent again as any client does only when a kept connection was closed before it was sent."""
    connection.request("GET", "/")
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 200, answer.status


def main(path: Path) -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: going.clear())
    kept = http.client.HTTPConnection("127.0.0.1", 9001, timeout=5)
    turn = 0
    while going:
        turn += 1
        try:
            if turn % 2:
                once(kept)
            else:
                fresh = http.client.HTTPConnection("127.0.0.1", 9001, timeout=5)
                once(fresh)
                fresh.close()
            counts["ok"] += 1
        except (OSError, AssertionError, http.client.HTTPException) as error:
            counts["failed"] += 1
            print(repr(error), flush=True)
            kept.close()
        path.write_text(json.dumps(counts))
        time.sleep(EVERY)


main(Path(sys.argv[1]))
