from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshagent.envoy.tail import Tail


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "envoy.log"
    path.write_bytes(b"old\nunfinis")
    return path


@pytest.fixture
def tail(log: Path) -> Iterator[Tail]:
    tail = Tail(log, look_bytes=100)
    yield tail
    tail.close()


def add(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_only_what_is_appended_from_now_on_counts(log: Path, tail: Tail) -> None:
    assert tail.lines() == []
    add(log, b"hed\nnew\n")
    assert tail.lines() == [b"hed", b"new"]
    assert tail.lines() == []


def test_half_a_line_waits_for_its_other_half(log: Path, tail: Tail) -> None:
    add(log, b"\na")
    assert tail.lines() == [b""]
    add(log, b"b")
    assert tail.lines() == []
    add(log, b"c\n")
    assert tail.lines() == [b"abc"]


def test_a_file_that_was_put_aside_is_read_to_its_end_and_then_the_new_one_from_its_start(
    log: Path, tail: Tail
) -> None:
    add(log, b"\none\n")
    log.rename(log.with_suffix(".1"))
    add(log.with_suffix(".1"), b"two\n")
    assert tail.lines() == [b"", b"one", b"two"], "nobody made a new one yet"
    add(log.with_suffix(".1"), b"three\n")
    log.write_bytes(b"four\n")
    assert tail.lines() == [b"three", b"four"]
    add(log, b"five\n")
    assert tail.lines() == [b"five"]


def test_what_is_written_between_a_look_and_the_change_of_files_is_read_too(
    log: Path, tail: Tail, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced = tail._replaced

    def later() -> bool:
        add(log, b"\nlate\n")
        log.rename(log.with_suffix(".1"))
        log.write_bytes(b"new\n")
        return replaced()

    monkeypatch.setattr(tail, "_replaced", later)
    assert tail.lines() == [b"", b"late", b"new"]


def test_a_file_that_was_emptied_is_read_from_its_start(log: Path, tail: Tail) -> None:
    os.truncate(log, 0)
    add(log, b"a\n")
    assert tail.lines() == [b"a"]


def test_a_file_that_appears_later_is_read_from_its_start(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "later.log")
    assert tail.lines() == []
    add(tmp_path / "later.log", b"first\n")
    assert tail.lines() == [b"first"]
    tail.close()


def test_of_a_flood_the_last_whole_lines_are_given_and_the_rest_is_counted(log: Path, tail: Tail) -> None:
    add(log, b"\n" + b"".join(b"line %03d\n" % number for number in range(100)))
    found = tail.lines()
    assert found == [b"line %03d" % number for number in range(89, 100)]
    assert tail.skipped == 1 + 900 - 100
    add(log, b"next\n")
    assert tail.lines() == [b"next"]


def test_a_line_without_end_is_dropped_and_counted(log: Path, tail: Tail) -> None:
    add(log, b"\n" + b"a" * 90)
    assert tail.lines() == [b""]
    add(log, b"b" * 50)
    assert tail.lines() == []
    assert tail.skipped == 140
    add(log, b"end of it\nnext\n")
    assert tail.lines()[-1] == b"next"


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"")
    (tmp_path / "envoy.log").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="symbolic links"):
        Tail(tmp_path / "envoy.log")


@settings(deadline=None, max_examples=50)
@given(steps=st.lists(st.one_of(st.binary(max_size=12), st.sampled_from(["look", "rotate"])), max_size=20))
def test_every_line_is_given_once_and_in_order_whatever_is_written_and_rotated(
    steps: list[bytes | str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("log") / "access.log"
    path.touch()
    tail = Tail(path)
    written, given_, rotated = b"", [], 0
    for step in steps:
        if isinstance(step, bytes):
            add(path, step)
            written += step
        elif step == "look":
            given_ += tail.lines()
        else:
            add(path, b"\n")  # Envoy writes whole lines
            written += b"\n"
            given_ += tail.lines()
            path.rename(path.with_suffix(f".{rotated}"))
            path.touch()
            rotated += 1
    given_ += tail.lines()
    tail.close()
    assert given_ == written.split(b"\n")[:-1]
