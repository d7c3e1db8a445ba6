"""Limits of the kernel on single processes, as units of systemd set them. Needs root and cgroups of version 1."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def group(controller: str, *pids: int):
    """A control group with these processes in it, as the directory of its settings; they leave it at the end."""
    made = Path(f"/sys/fs/cgroup/{controller}/m{os.getpid()}")
    made.mkdir()
    try:
        for pid in pids:
            (made / "cgroup.procs").write_text(str(pid))
        yield made
    finally:
        for pid in (made / "cgroup.procs").read_text().split():
            with suppress(OSError):
                (made.parent / "cgroup.procs").write_text(pid)
        made.rmdir()
