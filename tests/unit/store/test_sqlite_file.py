from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import pytest

from meshagent.errors import MeshError, StoreDenied, StoreUnavailable
from meshagent.store import sqlite_tables as tables
from meshagent.store.base import Put, Scope
from meshagent.store.sqlite_file import Database, explain_os, explain_sqlite
from meshagent.store.sqlite_tables import Instant


def write(database: Database, key: str) -> None:
    with tables.writing(database.writer):
        tables.commit(database.writer, [Put(key, b"")], Instant(0, 0))


def keys(path: Path) -> set[str]:
    database = Database(path, create=False)
    found = set(tables.snapshot(database.reader, Scope.of([""])).entries)
    database.close()
    return found


def make(path: Path, *names: str) -> None:
    database = Database(path, create=True)
    for name in names:
        write(database, name)
    database.close()


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_the_file_its_logs_and_a_new_directory_are_the_owner_s_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        database = Database(tmp_path / "new" / "mesh.db", create=True)
        write(database, "a")
    finally:
        os.umask(before)

    assert mode(tmp_path / "new") == 0o700
    assert {found.name: mode(found) for found in (tmp_path / "new").iterdir()} == {
        "mesh.db": 0o600,
        "mesh.db-wal": 0o600,
        "mesh.db-shm": 0o600,
    }
    database.close()


def test_a_file_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    make(tmp_path / "mesh.db", "a")
    (tmp_path / "mesh.db").chmod(0o644)

    assert keys(tmp_path / "mesh.db") == {"a"}
    assert mode(tmp_path / "mesh.db") == 0o600


@pytest.mark.parametrize("open_mode", [0o777, 0o1777, 0o702])
def test_a_directory_that_everybody_can_write_is_refused(tmp_path: Path, open_mode: int) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(open_mode)

    with pytest.raises(StoreDenied) as refusal:
        Database(shared / "mesh.db", create=True)
    assert "chmod" in refusal.value.next_step


def test_what_root_makes_belongs_to_the_owner_of_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:
        os.chown(tmp_path, 12345, 12345)
    given: dict[str, int] = {}
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "chown", lambda path, uid, gid, *, follow_symlinks: given.update({path.name: uid}))

    make(tmp_path / "mesh.db")

    assert given == {"mesh.db": tmp_path.stat().st_uid}


def test_a_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "mesh.db")
    owner = (tmp_path / "mesh.db").stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)

    with pytest.raises(StoreDenied, match="belongs to another user"):
        Database(tmp_path / "mesh.db", create=True)


def test_a_directory_whose_parent_is_missing_too_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable) as trouble:
        Database(tmp_path / "a" / "b" / "mesh.db", create=True)
    assert f"mkdir -p -m 700 {tmp_path}/a/b" in trouble.value.next_step
    assert list(tmp_path.iterdir()) == []


def test_a_place_where_nobody_can_write_is_denied() -> None:
    with pytest.raises(StoreDenied) as refusal:
        Database(Path("/sys/mesh.db"), create=True)
    assert refusal.value.next_step


@pytest.mark.parametrize("place", ["", "file/mesh.db"])
def test_a_path_that_cannot_be_a_file_is_unavailable(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable) as trouble:
        Database(tmp_path / place, create=True)
    assert trouble.value.next_step


@pytest.mark.parametrize(
    "content", [b"no database at all, whatever it may be" * 99, b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_a_file_that_is_no_database_is_one_clear_error_and_stays_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mesh.db"
    path.write_bytes(content)

    with pytest.raises(StoreUnavailable, match="not a store of the mesh, or is damaged") as trouble:
        Database(path, create=True)

    assert str(path) in trouble.value.next_step
    assert path.read_bytes() == content


def test_a_damaged_page_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "mesh.db"
    make(path, *(f"key-{number:04}" for number in range(300)))
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)

    with pytest.raises(StoreUnavailable, match="damaged"):
        keys_or_fault(path)


def keys_or_fault(path: Path) -> None:
    try:
        keys(path)
    except sqlite3.Error as error:
        raise explain_sqlite(path, error) from error


def test_another_program_s_database_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE theirs(a)")
    other.close()
    before = path.read_bytes()

    with pytest.raises(StoreUnavailable, match="another program"):
        Database(path, create=True)
    assert path.read_bytes() == before


def test_a_newer_schema_is_refused_with_the_way_out(tmp_path: Path) -> None:
    make(tmp_path / "mesh.db", "a")
    newer = sqlite3.connect(tmp_path / "mesh.db")
    newer.execute(f"PRAGMA user_version = {tables.SCHEMA_VERSION + 1}")
    newer.close()

    with pytest.raises(StoreUnavailable, match=f"version {tables.SCHEMA_VERSION + 1}") as trouble:
        Database(tmp_path / "mesh.db", create=True)
    assert "Upgrade meshagent" in trouble.value.next_step


@pytest.mark.parametrize("content", [None, b""])
def test_nothing_is_made_where_a_store_should_be_already(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "mesh.db"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(StoreUnavailable):
        Database(path, create=False)
    assert (path.read_bytes() if path.exists() else None) == content


def test_a_file_that_was_left_empty_by_a_crash_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "mesh.db").touch()
    make(tmp_path / "mesh.db", "a")
    assert keys(tmp_path / "mesh.db") == {"a"}


def test_a_link_to_a_file_is_that_file(tmp_path: Path) -> None:
    make(tmp_path / "mesh.db", "a")
    (tmp_path / "link.db").symlink_to(tmp_path / "mesh.db")

    database = Database(tmp_path / "link.db", create=True)
    write(database, "b")

    assert database.beside("-wal") == tmp_path.resolve() / "mesh.db-wal"
    database.close()
    assert keys(tmp_path / "mesh.db") == {"a", "b"}


def test_a_swapped_file_is_noticed_and_the_old_log_does_not_corrupt_it(tmp_path: Path) -> None:
    path = tmp_path / "mesh.db"
    make(tmp_path / "backup.db", *(f"backup-{number}" for number in range(200)))
    database = Database(path, create=True)
    for number in range(50):
        write(database, f"old-{number}")
    assert not database.moved()

    path.rename(tmp_path / "aside.db")
    (tmp_path / "backup.db").rename(path)
    assert database.moved()
    database.close()

    assert keys(path) == {f"backup-{number}" for number in range(200)}
    assert keys(tmp_path / "aside.db") == {f"old-{number}" for number in range(50)}
    for name in ("mesh.db", "aside.db"):
        checked = sqlite3.connect(tmp_path / name)
        assert checked.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        checked.close()


def test_a_file_that_came_back_has_everything(tmp_path: Path) -> None:
    path = tmp_path / "mesh.db"
    database = Database(path, create=True)
    write(database, "a")
    path.rename(tmp_path / "aside.db")
    assert database.moved()

    (tmp_path / "aside.db").rename(path)
    assert not database.moved()
    database.close()

    assert keys(path) == {"a"}


def test_a_file_that_was_moved_away_for_good_is_complete(tmp_path: Path) -> None:
    database = Database(tmp_path / "mesh.db", create=True)
    write(database, "a")
    (tmp_path / "mesh.db").rename(tmp_path / "aside.db")

    database.close()

    assert keys(tmp_path / "aside.db") == {"a"}


def test_a_new_file_has_nothing_of_the_log_of_one_that_was_there_before(tmp_path: Path) -> None:
    path = tmp_path / "mesh.db"
    old = Database(path, create=True)
    for number in range(50):
        write(old, f"old-{number}")
    path.unlink()

    new = Database(path, create=True)
    write(new, "new")
    old.close()
    write(new, "newer")
    new.close()

    assert keys(path) == {"new", "newer"}


def test_the_log_that_came_with_the_new_file_is_left_alone(tmp_path: Path) -> None:
    path, other = tmp_path / "mesh.db", tmp_path / "other" / "mesh.db"
    old = Database(path, create=True)
    new = Database(other, create=True)
    write(old, "old")
    write(new, "new")
    for found in other.parent.iterdir():
        found.rename(tmp_path / found.name)

    old.close()

    assert (tmp_path / "mesh.db-wal").stat().st_size > 0
    new.writer.close()
    new.reader.close()
    assert keys(path) == {"new"}


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EACCES, StoreDenied),
        (errno.EPERM, StoreDenied),
        (errno.EROFS, StoreDenied),
        (errno.ENOENT, StoreUnavailable),
        (errno.EIO, StoreUnavailable),
    ],
)
def test_an_error_of_the_file_system_says_what_to_do(number: int, kind: type[MeshError]) -> None:
    explained = explain_os(Path("/v/mesh.db"), OSError(number, os.strerror(number)))

    assert type(explained) is kind
    assert os.strerror(number) in explained.message
    assert explained.next_step


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (sqlite3.SQLITE_BUSY, StoreUnavailable, "locked"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, StoreUnavailable, "locked"),
        (sqlite3.SQLITE_CORRUPT_INDEX, StoreUnavailable, "damaged"),
        (sqlite3.SQLITE_NOTADB, StoreUnavailable, "damaged"),
        (sqlite3.SQLITE_READONLY_DIRECTORY, StoreDenied, "cannot be written"),
        (sqlite3.SQLITE_FULL, StoreUnavailable, "full"),
        (sqlite3.SQLITE_IOERR_WRITE, StoreUnavailable, "does not work"),
        (sqlite3.SQLITE_CANTOPEN, StoreUnavailable, "does not work"),
    ],
)
def test_an_error_of_sqlite_says_what_to_do(code: int, kind: type[MeshError], words: str) -> None:
    error = sqlite3.OperationalError("what sqlite says")
    error.sqlite_errorcode = code
    explained = explain_sqlite(Path("/v/mesh.db"), error)

    assert type(explained) is kind
    assert words in explained.message
    assert explained.next_step
