"""The file of an SQLite store: made safely, opened, told apart from another one at its path, its errors explained.

Rules of SQLite that shape this module: nothing but SQLite may open the file while a connection of this process is open
(closing any descriptor of it drops the process's locks), and a `-wal` file belongs to one database: beside another one
it corrupts it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import structlog

from meshagent.errors import MeshError, StoreDenied, StoreUnavailable
from meshagent.store.bell import give_to_owner_of_parent
from meshagent.store.sqlite_tables import APPLICATION_ID, SCHEMA, SCHEMA_VERSION, head, reading, writing

log = structlog.get_logger(__name__)

BUSY_SECONDS = 5.0
_LOGS = ("-wal", "-shm")
# After a burst of writes the write-ahead log gives its space back down to this many bytes.
_LOG_BYTES = 16 * 1024 * 1024


class Database:
    """One open file: a connection for the writer thread, one for reads on the event loop, and the file's identity."""

    def __init__(self, path: Path, *, create: bool) -> None:
        """Open the file, made with mode 0600 when absent and `create`. Raises StoreUnavailable and StoreDenied."""
        self.path = path
        with explained(path):
            # Taken before the connections, so that a file swapped in between is noticed later, not believed.
            if create:
                _make(path)
            _check_rights(path)
            self._identity = _identity(path)
            with contextlib.ExitStack() as undo:
                self.writer = _connect(path)
                undo.callback(self.writer.close)
                _adopt(self.writer, path, create=create)
                self.reader = _connect(path)
                undo.callback(self.reader.close)
                head(self.reader)
                # A read that meets a lock must not hold up the event loop: it fails at once and is tried again.
                self.reader.execute("PRAGMA busy_timeout = 0")
                self.reader.execute("PRAGMA query_only = ON")
                self._logs = {name: _identity(name) for name in map(self.beside, _LOGS) if present(name)}
                undo.pop_all()

    def moved(self) -> bool:
        """Whether another file, or none, is at the path now."""
        try:
            return _identity(self.path) != self._identity
        except OSError:
            return True

    def close(self) -> None:
        """Close both connections. A file that was moved is completed first: its log did not move with it."""
        if self.moved():
            with contextlib.suppress(sqlite3.Error):
                self.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            if present(self.path):
                self._remove_logs()
        self.reader.close()
        self.writer.close()

    def _remove_logs(self) -> None:
        """Take away the logs of the file that was at the path: beside the file that is there now they corrupt it."""
        for name, identity in self._logs.items():
            with contextlib.suppress(OSError):
                if _identity(name) == identity:
                    name.unlink()

    def beside(self, ending: str) -> Path:
        """The path that SQLite, which follows links, would give to a companion of the file."""
        return Path(os.path.realpath(self.path) + ending)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns the errors of SQLite and of the file system into StoreUnavailable and StoreDenied with a next step."""
    try:
        yield
    except sqlite3.Error as error:
        raise explain_sqlite(path, error) from error
    except OSError as error:
        raise explain_os(path, error) from error


def present(path: Path) -> bool:
    """Whether there is something at the path that this user can reach."""
    try:
        path.stat()
    except OSError:
        return False
    return True


def busy(error: sqlite3.Error) -> bool:
    """Whether the error only says that another connection holds a lock."""
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def explain_sqlite(path: Path, error: sqlite3.Error) -> MeshError:
    """What an SQLite error means for the person who runs the mesh."""
    code = _code(error)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreUnavailable(
            f"The store {path} was locked by another process for {BUSY_SECONDS:.0f} s.",
            next_step=f"See who holds it with: fuser -v {path}",
        )
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FORMAT):
        return damaged(path, str(error))
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return StoreDenied(
            f"The store {path} cannot be written: {error}.",
            next_step="Run as its owner, or give this user the right to write the file and its directory.",
        )
    if code == sqlite3.SQLITE_FULL:
        return StoreUnavailable(f"The disk of the store {path} is full.", next_step="Free some space; nothing is lost.")
    return StoreUnavailable(
        f"The store {path} does not work: {error}.", next_step="Check the file, its directory and the disk."
    )


def explain_os(path: Path, error: OSError) -> MeshError:
    """What a file system error at the store's path means."""
    reason = error.strerror or str(error)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreDenied(
            f"The store {path} cannot be opened or made: {reason}.",
            next_step=f"Run as the owner of {path.parent}, or name a store in a directory that this user can write.",
        )
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return StoreUnavailable(
            f"The store {path} cannot be opened: {reason}.",
            next_step=f"Make its directory (mkdir -p -m 700 {path.parent}), or put the file back.",
        )
    return StoreUnavailable(f"The store {path} cannot be opened: {reason}.", next_step="Check the path and the disk.")


def damaged(path: Path, reason: str) -> StoreUnavailable:
    """A file that is no store, or one no more."""
    return StoreUnavailable(
        f"{path} is not a store of the mesh, or is damaged: {reason}.",
        next_step=f"Put a backup in its place, or move it away (mv {path} {path}.bad) to begin with an empty store.",
    )


def _make(path: Path) -> None:
    """Make the file if it is absent, and its directory if only that is missing. Raises OSError."""
    with contextlib.suppress(FileExistsError):
        path.parent.mkdir(mode=0o700)
        give_to_owner_of_parent(path.parent)
    if present(path):
        return
    with _alone_in(path.parent):
        if present(path):
            return
        for ending in _LOGS:
            # Left by a file that was here before. Removed first: once there is a file, another process may open it.
            Path(os.path.realpath(path) + ending).unlink(missing_ok=True)
        made = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        # Safe to close: the file is new, so no connection of this process has locks on it yet.
        os.close(made)
        give_to_owner_of_parent(path)
    log.info("store_file_created", path=str(path))


@contextlib.contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Wait until no other process makes a store in the directory, and keep them from it."""
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _check_rights(path: Path) -> None:
    """Refuse a store that another user could forge, and close a file that others may read."""
    # Where all can write, all can put a store or its log in place: in a sticky directory like /tmp too.
    if path.parent.stat().st_mode & stat.S_IWOTH:
        raise StoreDenied(
            f"Every user can write the directory {path.parent}, and so forge a store in it.",
            next_step=f"Use a directory of your own, or close this one: chmod o-w {path.parent}",
        )
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise StoreUnavailable(f"{path} is not a file.", next_step="Name a file for the store: sqlite:///path/mesh.db")
    if os.geteuid() not in (0, found.st_uid):
        raise StoreDenied(
            f"The store {path} belongs to another user (uid {found.st_uid}).", next_step="Run as that user."
        )
    if found.st_mode & 0o077:
        path.chmod(0o600)
        log.warning("store_file_closed_to_others", path=str(path), mode=oct(found.st_mode & 0o777))


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(
        f"file:{quote(str(path))}?mode=rw",
        uri=True,
        isolation_level=None,
        timeout=BUSY_SECONDS,
        # Opened in the writer's thread; afterwards each connection stays in one thread.
        check_same_thread=False,
    )
    # A crash of processes loses nothing; a power cut may lose the last commits, never half of one.
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
    return db


def _adopt(db: sqlite3.Connection, path: Path, *, create: bool) -> None:
    """Make sure that this is a store of our schema, `create` it in an empty file, and turn on write-ahead logging."""
    with reading(db):
        ours = _is_ours(db, path)
    if not ours and not create:
        raise damaged(path, "it is empty")
    _turn_on_wal(db)
    if not ours:
        with writing(db):
            if not _is_ours(db, path):
                for statement in SCHEMA:
                    db.execute(statement)


def _is_ours(db: sqlite3.Connection, path: Path) -> bool:
    """False for an empty file. Raises StoreUnavailable for another program's, or a newer version's."""
    application = db.execute("PRAGMA application_id").fetchone()[0]
    version = db.execute("PRAGMA user_version").fetchone()[0]
    tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if not tables and not application:
        return False
    if application != APPLICATION_ID:
        raise damaged(path, "it is the database of another program")
    if version != SCHEMA_VERSION:
        raise StoreUnavailable(
            f"The store {path} has schema version {version}; this program knows version {SCHEMA_VERSION}.",
            next_step="Upgrade meshagent on this machine to the version that wrote the store.",
        )
    return True


def _turn_on_wal(db: sqlite3.Connection) -> None:
    """The switch needs the file alone and ignores the busy timeout, so processes that open together take turns."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if not busy(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _code(error: sqlite3.Error) -> int:
    """The primary result code; 0 for errors that Python raised itself."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
