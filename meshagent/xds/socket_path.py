"""A Unix socket at a path that only this user can reach."""

from __future__ import annotations

import os
import secrets
import socket
import stat
from pathlib import Path

from meshagent.errors import DataDirInUse, UnsafeFile, UsageProblem
from meshagent.private import FILE_MODE, private_dir

_PATH_LIMIT = 107  # bytes; sockaddr_un.sun_path holds 108 with its final zero (unix(7))


def claim(path: Path) -> Path:
    """Makes the directory of `path` (0700) and returns a free path beside it, to bind to and then give to `publish`.

    Binding beside it has two reasons: the old socket is replaced in one step, and gRPC, which unlinks what it bound to
    when it closes, can never take away the socket of a server that was started after it.
    Raises UsageProblem when the path is too long for a socket, UnsafeFile when it or its directory is not ours alone,
    and DataDirInUse when another process answers there.
    """
    beside = path.with_name(f".{secrets.token_hex(4)}")
    for needed in (path, beside):
        if len(os.fsencode(needed)) > _PATH_LIMIT:
            raise UsageProblem(
                f"{needed} is longer than the {_PATH_LIMIT} bytes that a Unix socket's path may have",
                next_step="choose a shorter directory",
            )
    _refuse_shared(path.parent)
    private_dir(path.parent)
    _refuse_taken(path)
    return beside


def publish(bound: Path, path: Path) -> int:
    """Moves the bound socket to `path`, mode 0600, in place of a stale one; returns its inode, for `withdraw`."""
    bound.chmod(FILE_MODE)
    bound.rename(path)
    return path.stat(follow_symlinks=False).st_ino


def withdraw(path: Path, inode: int) -> None:
    """Removes the socket unless another server has put its own there."""
    try:
        if path.stat(follow_symlinks=False).st_ino == inode:
            path.unlink()
    except FileNotFoundError:
        return


def _refuse_shared(directory: Path) -> None:
    """A directory such as /tmp is not to be closed to all the others, as `private_dir` would do for root."""
    if directory.is_dir() and directory.stat().st_mode & stat.S_ISVTX:
        raise UnsafeFile(f"{directory} is shared between users", next_step=f"use a directory of its own in {directory}")


def _refuse_taken(path: Path) -> None:
    try:
        mode = path.stat(follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise UnsafeFile(f"{path} is not a socket", next_step=f"check who made it, then: rm -r {path}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        if probe.connect_ex(os.fsencode(path)) == 0:
            raise DataDirInUse(f"another process serves {path}", next_step=f"see who: fuser {path}")
