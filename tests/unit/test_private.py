"""Private files: what is written, what is refused, and that nothing is ever left half done (attack test 47)."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import socket
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshagent.errors import DataDirInUse, DataDirUnusable, NotFound, UnsafeFile
from meshagent.private import append_private, locked, private_dir, read_private, write_private

SOMEONE = 54321
Plant = Callable[[Path], None]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `path` another user's: for real where we may, else by becoming another user in the eyes of the code."""
    if os.geteuid() == 0:
        os.chown(path, SOMEONE, SOMEONE)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: SOMEONE)


@contextmanager
def files_no_longer_than(size: int) -> Iterator[None]:
    """The kernel itself stops a write in the middle, as a full disk does."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def plant_symlink(path: Path) -> None:
    path.symlink_to(path.parent / "victim")


def plant_dangling_symlink(path: Path) -> None:
    path.symlink_to(path.parent / "absent")


def plant_hard_link(path: Path) -> None:
    os.link(path.parent / "victim", path)


def plant_fifo(path: Path) -> None:
    os.mkfifo(path, 0o600)


def plant_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def plant_directory(path: Path) -> None:
    path.mkdir(mode=0o700)


PLANTS = [plant_symlink, plant_dangling_symlink, plant_hard_link, plant_fifo, plant_socket, plant_directory]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory of our own with one file in it that must never change."""
    directory = private_dir(tmp_path / "home")
    write_private(directory / "victim", b"untouched")
    return directory


def left_in(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def test_what_was_written_is_read_back_and_closed_to_others(home: Path) -> None:
    write_private(home / "key", b"secret")
    assert read_private(home / "key") == b"secret"
    assert mode(home / "key") == 0o600


@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_the_mode_does_not_depend_on_the_umask(home: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_private(home / "key", b"x")
        append_private(home / "log", b"x")
    finally:
        os.umask(before)
    assert (mode(home / "key"), mode(home / "log")) == (0o600, 0o600)


def test_a_second_write_replaces_the_first_and_leaves_no_temporary_file(home: Path) -> None:
    write_private(home / "key", b"a long first version")
    write_private(home / "key", b"short")
    assert read_private(home / "key") == b"short"
    assert left_in(home) == ["key", "victim"]


def test_an_own_file_that_was_too_open_is_replaced_by_a_closed_one(home: Path) -> None:
    (home / "key").write_bytes(b"old")
    (home / "key").chmod(0o644)
    write_private(home / "key", b"new")
    assert mode(home / "key") == 0o600


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_target_is_refused_and_nothing_is_written(home: Path, plant: Plant) -> None:
    plant(home / "key")
    before = left_in(home)
    with pytest.raises(UnsafeFile) as refused:
        write_private(home / "key", b"secret")
    assert str(home / "key") in refused.value.message
    assert refused.value.next_step
    assert (home / "victim").read_bytes() == b"untouched"
    assert left_in(home) == before


@pytest.mark.parametrize("plant", PLANTS)
def test_nothing_is_appended_to_a_planted_target(home: Path, plant: Plant) -> None:
    plant(home / "log")
    with pytest.raises(UnsafeFile, match="log"):
        append_private(home / "log", b"line\n")
    assert (home / "victim").read_bytes() == b"untouched"
    assert not (home / "absent").exists()


@pytest.mark.parametrize("plant", [plant for plant in PLANTS if plant is not plant_hard_link])
def test_a_planted_secret_is_not_read_and_a_fifo_does_not_hang_us(home: Path, plant: Plant) -> None:
    plant(home / "key")
    with pytest.raises(UnsafeFile, match="key"):
        read_private(home / "key")


@pytest.mark.parametrize("bits", [0o777, 0o775, 0o757])
def test_a_directory_that_others_can_write_is_refused(home: Path, bits: int) -> None:
    home.chmod(bits)
    with pytest.raises(UnsafeFile, match="can be written by other users") as refused:
        write_private(home / "key", b"secret")
    assert refused.value.next_step == f"chmod go-w {home}"
    assert left_in(home) == ["victim"]


def test_a_sticky_directory_is_accepted_since_others_cannot_replace_files_in_it(home: Path) -> None:
    home.chmod(0o1777)
    write_private(home / "key", b"secret")
    assert read_private(home / "key") == b"secret"


def test_a_directory_of_another_user_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give_away(home, monkeypatch)
    with pytest.raises(UnsafeFile, match="is owned by uid"):
        write_private(home / "key", b"secret")
    with pytest.raises(UnsafeFile, match="is owned by uid"):
        private_dir(home)


def test_a_file_of_another_user_is_neither_overwritten_nor_believed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_private(home / "key", b"theirs")
    give_away(home / "key", monkeypatch)
    with pytest.raises(UnsafeFile, match="is owned by uid"):
        read_private(home / "key")
    with pytest.raises(UnsafeFile, match="is owned by uid"):
        write_private(home / "key", b"ours")


@pytest.mark.parametrize("bits", [0o604, 0o602, 0o660, 0o644, 0o620, 0o610])
def test_a_secret_that_others_can_reach_is_not_used(home: Path, bits: int) -> None:
    (home / "token").write_bytes(b"secret")
    (home / "token").chmod(bits)
    with pytest.raises(UnsafeFile, match=f"mode {bits:04o}") as refused:
        read_private(home / "token")
    assert refused.value.next_step == f"chmod go= {home / 'token'}"


def test_group_read_is_accepted_only_when_owner_and_group_are_root(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "token").write_bytes(b"from systemd")
    (home / "token").chmod(0o440)
    real = os.fstat

    def owned_by(uid: int, gid: int) -> Callable[[int], os.stat_result]:
        return lambda fd: os.stat_result([*real(fd)[:4], uid, gid, *real(fd)[6:10]])

    monkeypatch.setattr(os, "fstat", owned_by(0, 0))
    assert read_private(home / "token") == b"from systemd"
    monkeypatch.setattr(os, "fstat", owned_by(os.geteuid(), SOMEONE))
    with pytest.raises(UnsafeFile, match="mode 0440"):
        read_private(home / "token")


def test_an_absent_secret_is_not_found(home: Path) -> None:
    with pytest.raises(NotFound, match="absent"):
        read_private(home / "absent")
    with pytest.raises(NotFound, match="nowhere"):
        read_private(home / "nowhere" / "key")


def test_a_secret_longer_than_the_limit_is_refused(home: Path) -> None:
    write_private(home / "token", b"x" * 11)
    assert len(read_private(home / "token", limit=11)) == 11
    with pytest.raises(UnsafeFile, match="longer than 10 bytes"):
        read_private(home / "token", limit=10)


def test_a_write_stopped_in_the_middle_leaves_the_old_content_and_no_rest(home: Path) -> None:
    write_private(home / "key", b"old")
    with files_no_longer_than(100), pytest.raises(DataDirUnusable, match="File too large"):
        write_private(home / "key", b"n" * 5000)
    assert read_private(home / "key") == b"old"
    assert left_in(home) == ["key", "victim"]


def test_an_append_stopped_in_the_middle_leaves_whole_lines(home: Path) -> None:
    append_private(home / "log", b"first\n")
    with files_no_longer_than(10), pytest.raises(DataDirUnusable):
        append_private(home / "log", b"a second line that does not fit\n")
    append_private(home / "log", b"third\n")
    assert read_private(home / "log") == b"first\nthird\n"


@pytest.mark.parametrize(
    ("code", "step"),
    [(errno.ENOSPC, "free space"), (errno.EROFS, "writable"), (errno.EACCES, "write access"), (errno.EIO, "check the")],
)
def test_trouble_with_the_disk_names_the_path_and_the_next_step(
    home: Path, monkeypatch: pytest.MonkeyPatch, code: int, step: str
) -> None:
    def fail(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DataDirUnusable, match=os.strerror(code)) as trouble:
        write_private(home / "key", b"new")
    assert str(home / "key") in trouble.value.message
    assert step in trouble.value.next_step
    assert left_in(home) == ["victim"]


def test_a_missing_directory_is_named(home: Path) -> None:
    with pytest.raises(DataDirUnusable) as trouble:
        write_private(home / "absent" / "key", b"x")
    assert trouble.value.next_step == f"create {home / 'absent'}"


def test_appends_from_several_writers_never_mix(home: Path) -> None:
    lines = [f"{number:04}".encode() * 500 + b"\n" for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda line: append_private(home / "log", line), lines))
    assert sorted(read_private(home / "log").splitlines(keepends=True)) == lines


def test_an_append_waits_for_one_that_is_under_way(home: Path) -> None:
    append_private(home / "log", b"first\n")
    with ThreadPoolExecutor(1) as pool, (home / "log").open("rb+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting = pool.submit(append_private, home / "log", b"second\n")
        with pytest.raises(FutureTimeout):
            waiting.result(timeout=0.05)
        fcntl.flock(other, fcntl.LOCK_UN)
        waiting.result(timeout=10)
    assert read_private(home / "log") == b"first\nsecond\n"


def test_a_private_directory_is_made_with_its_parents_and_closed(tmp_path: Path) -> None:
    made = private_dir(tmp_path / "var" / "lib" / "mesh")
    assert made == tmp_path / "var" / "lib" / "mesh"
    assert mode(made) == 0o700


def test_an_own_directory_that_is_too_open_is_tightened(tmp_path: Path) -> None:
    (tmp_path / "mesh").mkdir()
    (tmp_path / "mesh").chmod(0o755)
    private_dir(tmp_path / "mesh")
    assert mode(tmp_path / "mesh") == 0o700


@pytest.mark.parametrize("plant", [plant_symlink, plant_dangling_symlink, plant_fifo, plant_hard_link])
def test_a_link_or_a_file_where_the_directory_should_be_is_refused(home: Path, plant: Plant) -> None:
    plant(home / "mesh")
    with pytest.raises(UnsafeFile, match="where a directory is needed"):
        private_dir(home / "mesh")


def test_a_link_to_a_directory_is_refused_too(home: Path) -> None:
    (home / "real").mkdir()
    (home / "mesh").symlink_to(home / "real")
    with pytest.raises(UnsafeFile, match="is a link"):
        private_dir(home / "mesh")


def test_a_lock_keeps_the_second_one_out_until_the_first_is_done(home: Path) -> None:
    with locked(home / "lock"), pytest.raises(DataDirInUse, match="is locked"), locked(home / "lock", wait_seconds=0):
        pytest.fail("both hold the lock")
    with locked(home / "lock", wait_seconds=0):
        assert mode(home / "lock") == 0o600


def test_a_planted_lock_file_is_refused(home: Path) -> None:
    plant_symlink(home / "lock")
    with pytest.raises(UnsafeFile, match="symbolic link"), locked(home / "lock"):
        pytest.fail("the link was followed")
