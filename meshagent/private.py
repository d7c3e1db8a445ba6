"""Files that only this user may read: keys, tokens, audit lines, the last known state.

Every step is made relative to an open directory, so nobody can swap a path between the check and the write.
What is refused, and why, follows attack test 47: a planted link, a FIFO or an open directory must not make us write
outside or read what another user put there. Standard library only.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from meshagent.errors import DataDirInUse, DataDirUnusable, NotFound, UnsafeFile

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700
DEFAULT_LIMIT = 1024 * 1024  # bytes; the largest secret is a few KiB
_ROOT = 0
_OPEN = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # O_NONBLOCK: a planted FIFO must not hang us
_LOCK_POLL_SECONDS = 0.05
_NEXT_STEPS = {
    errno.ENOSPC: "free space on the file system of {}",
    errno.EDQUOT: "free space or raise the disk quota for {}",
    errno.EROFS: "make {} writable, or set data_dir to a place that is",
    errno.EACCES: "give the user that runs this write access to {}",
    errno.EPERM: "give the user that runs this write access to {}",
    errno.ENOENT: "create {}",
}


def write_private(path: Path, data: bytes) -> None:
    """Puts `data` at `path`, mode 0600, whole or not at all, and on disk when this returns.

    Raises UnsafeFile when the target or its directory could be in someone else's hands (then nothing was written) and
    DataDirUnusable when the disk is full, read-only or out of reach (then the old content is still there).
    """
    with _directory_of(path) as directory, _disk_trouble(path):
        _refuse_unsafe_target(path, directory)
        temporary = f".{path.name}.{secrets.token_hex(8)}"
        try:
            _write_new(directory, temporary, data)
            os.rename(temporary, path.name, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)  # else a crash can bring the old name back
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=directory)
            raise


def append_private(path: Path, data: bytes) -> None:
    """Adds `data` at the end of `path` (made with mode 0600), whole or not at all, and on disk when this returns.

    Several processes may append to one file. Raises UnsafeFile and DataDirUnusable as `write_private` does.
    """
    with _directory_of(path) as directory, _disk_trouble(path):
        descriptor = _open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, directory)
        try:
            _refuse_unsafe_file(path, os.fstat(descriptor))
            os.fchmod(descriptor, FILE_MODE)
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # held for one write; makes the size below ours
            _append_whole(descriptor, data)
        finally:
            os.close(descriptor)


def read_private(path: Path, limit: int = DEFAULT_LIMIT) -> bytes:
    """The content of a file that only we (or root) can have written and nobody else can read.

    Raises NotFound when it is absent, UnsafeFile when it is a link, not a regular file, owned by another user, open to
    group or others, or longer than `limit` bytes, and DataDirUnusable when the disk fails.
    """
    with _disk_trouble(path):
        descriptor = _open(path, os.O_RDONLY)
        try:
            _refuse_unsafe_secret(path, os.fstat(descriptor))
            data = _read_up_to(descriptor, limit + 1)
        finally:
            os.close(descriptor)
    if len(data) > limit:
        _refuse(path, f"is longer than {limit} bytes", f"check what wrote {path}")
    return data


def private_dir(path: Path) -> Path:
    """Makes `path` a directory of our own with mode 0700 (parents as needed); one of ours that is wider is tightened.

    Raises UnsafeFile when it is a link, not a directory or owned by another user, and DataDirUnusable when it cannot be
    made.
    """
    with _disk_trouble(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            path.mkdir(mode=DIRECTORY_MODE)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _OPEN)
        except NotADirectoryError:
            _refuse(path, "is a link or a file where a directory is needed", f"move it away: mv {path} {path}.old")
        try:
            _make_ours(path, descriptor)
        finally:
            os.close(descriptor)
    return path


@contextmanager
def locked(path: Path, wait_seconds: float = 10.0) -> Iterator[None]:
    """Holds the lock file `path` (made with mode 0600) against other processes and threads.

    Raises DataDirInUse when another one still holds it after `wait_seconds`. The kernel frees it when a holder dies.
    """
    with _directory_of(path) as directory, _disk_trouble(path):
        descriptor = _open(path, os.O_RDWR | os.O_CREAT, directory)
    try:
        _refuse_unsafe_file(path, os.fstat(descriptor))
        _wait_for_lock(path, descriptor, wait_seconds)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _directory_of(path: Path) -> Iterator[int]:
    """The open directory that holds `path`; nobody but us and root may replace files in it."""
    with _disk_trouble(path):
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if found.st_uid not in (os.geteuid(), _ROOT):
            _refuse(
                path.parent,
                f"is owned by uid {found.st_uid}",
                f"run as that user, or: chown {os.geteuid()} {path.parent}",
            )
        if found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
            _refuse(path.parent, "can be written by other users", f"chmod go-w {path.parent}")
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _disk_trouble(path: Path) -> Iterator[None]:
    """Turns an operating system error into DataDirUnusable with the step that cures it."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        step = _NEXT_STEPS.get(error.errno or 0, "check the file system of {}").format(path.parent)
        raise DataDirUnusable(f"{path}: {reason}", next_step=step) from error


def _open(path: Path, flags: int, directory: int | None = None) -> int:
    """Opens without following a link; a path that cannot be a plain file is UnsafeFile, an absent one NotFound."""
    try:
        return os.open(path if directory is None else path.name, flags | _OPEN, FILE_MODE, dir_fd=directory)
    except FileNotFoundError:
        raise NotFound(f"{path} does not exist") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            _refuse(path, "is a symbolic link", f"check who made it, then: rm {path}")
        if error.errno in (errno.ENXIO, errno.EISDIR):  # a FIFO without a reader, a socket, a directory
            _refuse(path, "is not a regular file", f"check who made it, then: rm -r {path}")
        raise


def _write_new(directory: int, name: str, data: bytes) -> None:
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN, FILE_MODE, dir_fd=directory)
    try:
        os.fchmod(descriptor, FILE_MODE)  # the umask may have taken bits away
        _write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _append_whole(descriptor: int, data: bytes) -> None:
    size = os.fstat(descriptor).st_size
    try:
        _write_all(descriptor, data)
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, size)  # half a line would spoil the next one too
        raise


def _read_up_to(descriptor: int, size: int) -> bytes:
    data = bytearray()
    while chunk := os.read(descriptor, size - len(data)):
        data += chunk
    return bytes(data)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _refuse_unsafe_target(path: Path, directory: int) -> None:
    """What is at the target now must be absent or a plain file of our own."""
    try:
        found = os.stat(path.name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISLNK(found.st_mode):
        _refuse(path, "is a symbolic link", f"check who made it, then: rm {path}")
    _refuse_unsafe_file(path, found)


def _refuse_unsafe_file(path: Path, found: os.stat_result) -> None:
    """For writing: a plain file of our own that has no other name."""
    if not stat.S_ISREG(found.st_mode):
        _refuse(path, "is not a regular file", f"check who made it, then: rm -r {path}")
    if found.st_uid != os.geteuid():
        _refuse(path, f"is owned by uid {found.st_uid}", f"check who made it, then: chown {os.geteuid()} {path}")
    if found.st_nlink > 1:
        _refuse(
            path, f"has {found.st_nlink} hard links", f"check the others (find -inum {found.st_ino}), then: rm {path}"
        )


def _refuse_unsafe_secret(path: Path, found: os.stat_result) -> None:
    """For reading: a plain file of ours or root's, closed to everyone else."""
    if not stat.S_ISREG(found.st_mode):
        _refuse(path, "is not a regular file", f"check who made it, then: rm -r {path}")
    if found.st_uid not in (os.geteuid(), _ROOT):
        _refuse(path, f"is owned by uid {found.st_uid}", f"check who made it, then: chown {os.geteuid()} {path}")
    if found.st_mode & _closed_bits(found):
        _refuse(path, f"can be read by other users (mode {found.st_mode & 0o777:04o})", f"chmod go= {path}")


def _closed_bits(found: os.stat_result) -> int:
    """The permission bits that must be unset.

    systemd hands a service its LoadCredential files as root:root with an ACL entry for the service's user, and the ACL
    mask then shows as group bits (0440). Group read of root's own group gives nothing to anyone else.
    """
    return 0o037 if (found.st_uid, found.st_gid) == (_ROOT, _ROOT) else 0o077


def _make_ours(path: Path, descriptor: int) -> None:
    found = os.fstat(descriptor)
    if found.st_uid != os.geteuid():
        _refuse(path, f"is owned by uid {found.st_uid}", f"run as that user, or: chown {os.geteuid()} {path}")
    if found.st_mode & 0o077:
        os.fchmod(descriptor, DIRECTORY_MODE)


def _wait_for_lock(path: Path, descriptor: int, wait_seconds: float) -> None:
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise DataDirInUse(f"{path} is locked by another process", next_step=f"see who: fuser {path}") from None
            time.sleep(_LOCK_POLL_SECONDS)


def _refuse(path: Path, what: str, next_step: str) -> NoReturn:
    raise UnsafeFile(f"{path} {what}", next_step=next_step)
