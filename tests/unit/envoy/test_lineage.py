"""Which Envoy follows which: what the command line says of it, and what does not make an Envoy another one."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from meshagent.envoy import outlive
from meshagent.envoy.handle import digest_of
from meshagent.envoy.handover import forget, founding, patience
from meshagent.envoy.lineage import BASE_IDS, Lineage, hot_restart, lineage_of, without_lineage
from meshagent.envoy.spawn import arguments

ROW = Lineage(7, 0, Path("/run/m/envoy"), 3)
ASKED = """
import ctypes
kept = ctypes.c_int(-1)
libc = ctypes.CDLL(None)
print(libc.prctl(1, 15, 0, 0, 0), libc.prctl(2, ctypes.byref(kept)), kept.value)
"""


def command(row: Lineage | None) -> list[str]:
    return arguments(Path("/bin/envoy"), Path("/d/b.json"), Path("/d/envoy.log"), 2, row)


def test_a_command_line_tells_the_row_and_the_place_in_it() -> None:
    assert lineage_of(command(ROW)) == ROW
    following = ROW.following(10)
    assert lineage_of(command(following)) == following == Lineage(7, 1, Path("/run/m/envoy"), 10)
    assert lineage_of(command(None)) is None and "--disable-hot-restart" in command(None)


def test_the_sockets_are_files_that_are_its_users_alone() -> None:
    line = " ".join(hot_restart(ROW))
    assert "--socket-path /run/m/envoy --socket-mode 600" in line
    assert ROW.listens_at == Path("/run/m/envoy_parent_70")
    assert Lineage(7, 4, ROW.sockets, 3).listens_at == Path("/run/m/envoy_parent_71")


def test_neither_the_row_nor_the_place_in_it_makes_an_envoy_another() -> None:
    all_same = [command(None), command(ROW), command(ROW.following(99))]
    assert len({tuple(without_lineage(words)) for words in all_same}) == 1
    assert len({digest_of(words, b"{}") for words in all_same}) == 1
    assert digest_of([*command(ROW), "-l", "debug"], b"{}") != digest_of(command(ROW), b"{}")


def test_a_path_that_the_kernel_would_not_take_is_not_tried() -> None:
    longest = 107 - len("_udp_parent_1342177279")
    assert Lineage(BASE_IDS - 1, 0, Path("/" + "x" * (longest - 1)), 3).fits
    assert not Lineage(BASE_IDS - 1, 0, Path("/" + "x" * longest), 3).fits


def test_the_number_of_a_row_is_drawn_once_and_kept_private(tmp_path: Path) -> None:
    first, again = (founding(tmp_path, tmp_path / "envoy", Path(sys.executable)) for _ in range(2))
    assert first is not None and first == again and 0 <= first.base_id < BASE_IDS
    assert (tmp_path / "envoy-base-id").stat().st_mode & 0o777 == 0o600
    (tmp_path / "envoy-base-id").write_text(str(BASE_IDS))
    drawn = founding(tmp_path, tmp_path / "envoy", Path(sys.executable))
    assert drawn is not None and drawn.base_id < BASE_IDS


def test_without_shared_memory_or_on_another_processor_there_is_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("meshagent.envoy.lineage._MEMORY", tmp_path / "none")
        assert founding(tmp_path, tmp_path / "envoy", Path(sys.executable)) is None
    monkeypatch.setattr(outlive, "ARCHITECTURES", {})
    assert founding(tmp_path, tmp_path / "envoy", Path(sys.executable)) is None


def test_a_binary_that_its_file_gives_capabilities_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.listxattr", lambda path: ["security.capability"])
    assert founding(tmp_path, tmp_path / "envoy", Path(sys.executable)) is None


def test_a_row_that_has_ended_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshagent.envoy.lineage._MEMORY", tmp_path)
    row = Lineage(7, 1, tmp_path / "envoy", 3)
    for name in ("envoy_shared_memory_70", "envoy_parent_70", "envoy_udp_child_71", "envoy_parent_80", "envoy.log"):
        (tmp_path / name).touch()
    forget(row)
    forget(None)
    assert {path.name for path in tmp_path.iterdir()} == {"envoy_parent_80", "envoy.log"}


@pytest.mark.parametrize(("drain", "seconds"), [(0, 3), (10, 10), (600.4, 600)])
def test_what_is_under_way_has_the_time_of_a_drain_but_what_envoy_needs_at_least(drain: float, seconds: int) -> None:
    assert patience(drain) == seconds


def test_a_program_that_is_to_outlive_us_is_told_yes_and_yet_does_not_die_with_us() -> None:
    words = [sys.executable, "-c", ASKED]
    plain = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert plain.split() == ["0", "0", "15"]
    filtered = [sys.executable, "-I", "-S", outlive.__file__, *words]
    assert subprocess.run(filtered, capture_output=True, text=True, check=True).stdout.split() == ["0", "0", "0"]


def test_a_program_that_is_not_there_is_told(tmp_path: Path) -> None:
    words = [sys.executable, "-I", "-S", outlive.__file__, str(tmp_path / "none")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 126 and "none cannot be started: No such file" in done.stderr


@pytest.mark.parametrize("machine", outlive.ARCHITECTURES)
def test_the_filter_has_eight_steps_of_eight_bytes(machine: str) -> None:
    assert len(outlive.instructions(machine)) == 8 * 8 and ctypes.sizeof(ctypes.c_void_p) == 8
