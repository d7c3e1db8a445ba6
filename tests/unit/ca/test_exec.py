"""A CA that is a program: what it is given, what its end means, and attack test 45."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from meshagent.ca.exec import ExecAuthority, open_authority
from meshagent.errors import AuthorityUnavailable, CertificateRefused, MeshError, UsageProblem
from tests.unit.ca.lying_ca import CSR_PEM, DOMAIN, HOUR, ROOT, WEB

Make = Callable[..., ExecAuthority]


def script(place: Path, text: str, mode: int = 0o700) -> Path:
    place.write_text(f"#!/bin/sh\n{text}\n")
    place.chmod(mode)
    return place


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "roots.pem").write_text(ROOT.pem)
    return tmp_path


def opened(folder: Path, text: str, **settings: object) -> ExecAuthority:
    given = {"command": [str(script(folder / "sign", text))], "roots_file": str(folder / "roots.pem"), **settings}
    return at(folder, **given)


def at(folder: Path, **settings: object) -> ExecAuthority:
    return open_authority(settings, trust_domain=DOMAIN, data_dir=folder, clock=lambda: datetime.now(UTC))


def running(pid_file: Path) -> bool:
    """Whether the process whose number is in the file still runs (a dead one that nobody reaped does not)."""
    status = Path(f"/proc/{pid_file.read_text().strip()}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


async def ended(pid_file: Path) -> None:
    async with asyncio.timeout(5):
        while running(pid_file):
            await asyncio.sleep(0.01)


async def test_it_is_given_the_request_and_what_is_asked_for_and_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CA_PROFILE", "mesh")
    monkeypatch.setenv("STORE_TOKEN", "secret")
    ca = opened(folder, "env; cat", env=["CA_PROFILE", "NOT_SET"])
    said = (await ca.sign(CSR_PEM, WEB, HOUR)).decode()
    assert said.endswith(CSR_PEM.decode())
    names = {line.partition("=")[0] for line in said.splitlines() if "=" in line and not line.endswith("=")}
    assert names - {"PWD", "_", "SHLVL", "OLDPWD"} == {
        "PATH",
        "LANG",
        "CA_PROFILE",
        "MESHAGENT_SPIFFE_ID",
        "MESHAGENT_TTL_SECONDS",
    }
    assert f"MESHAGENT_SPIFFE_ID={WEB}\n" in said and "MESHAGENT_TTL_SECONDS=3600\n" in said


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("exit 77", CertificateRefused, "refuses"),
        ("exit 1", AuthorityUnavailable, "status 1"),
        ("kill -9 $$", AuthorityUnavailable, "signal 9"),
        ("true", CertificateRefused, "wrote nothing"),
    ],
)
async def test_the_exit_status_says_whether_to_ask_again(
    folder: Path, text: str, kind: type[MeshError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        await opened(folder, text).sign(CSR_PEM, WEB, HOUR)


async def test_a_program_that_is_gone_or_cannot_be_run_is_said_so(folder: Path) -> None:
    ca = at(folder, command=[str(folder / "none")], roots_file=str(folder / "roots.pem"))
    with pytest.raises(AuthorityUnavailable, match="no program"):
        await ca.sign(CSR_PEM, WEB, HOUR)
    script(folder / "none", "true", mode=0o600)
    assert "chmod +x" in (await ca.check()).problems[0]
    with pytest.raises(AuthorityUnavailable, match="Permission denied"):
        await ca.sign(CSR_PEM, WEB, HOUR)


async def test_roots_come_from_a_program_too_and_intermediates_are_not_taken_for_roots(folder: Path) -> None:
    (folder / "all.pem").write_text(ROOT.intermediate().pem + ROOT.pem + ROOT.pem)
    roots = script(folder / "roots", f"cat {folder}/all.pem")
    ca = at(folder, command=["/bin/true"], roots_command=[str(roots)])
    assert (await ca.bundle()).of(DOMAIN) == (ROOT.pem,)
    assert (await ca.check()).ok
    script(roots, "exit 3")
    assert "status 3" in (await ca.check()).problems[0]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"command": []},
        {"command": ["/bin/true"]},
        {"command": ["/bin/true"], "roots_file": "/r", "roots_command": ["/r"]},
        {"command": ["/bin/true"], "roots_file": "/r", "timeout": "1h"},
        {"command": ["/bin/true"], "roots_file": "/r", "shell": "yes"},
    ],
)
def test_settings_that_cannot_be_used_are_refused_at_the_start(folder: Path, settings: dict[str, object]) -> None:
    with pytest.raises(UsageProblem):
        at(folder, **settings)


def test_a_command_out_of_the_environment_is_one_text(folder: Path) -> None:
    assert at(folder, command="/bin/sign 'a b' c", roots_file="/r")._settings.command == ("/bin/sign", "a b", "c")


# --- attack test 45: a plugin that misbehaves


async def test_attack_45_a_program_that_hangs_is_killed_with_all_that_it_started(folder: Path) -> None:
    text = f"sleep 60 & echo $! > {folder}/child; trap '' TERM; sleep 60"
    began = time.monotonic()
    with pytest.raises(AuthorityUnavailable, match="within 500ms and was killed"):
        await opened(folder, text, timeout="500ms").sign(CSR_PEM, WEB, HOUR)
    assert time.monotonic() - began < 3
    await ended(folder / "child")


async def test_attack_45_what_it_leaves_running_is_killed_and_what_escapes_holds_up_nobody(folder: Path) -> None:
    text = f"""
        sleep 60 & echo $! > {folder}/child
        setsid sh -c 'echo $$ > {folder}/escaped; exec sleep 60' & sleep 0.2; echo answer"""
    ca = opened(folder, text)
    began = time.monotonic()
    assert await ca.sign(CSR_PEM, WEB, HOUR) == b"answer\n"
    assert time.monotonic() - began < 3
    await ended(folder / "child")
    assert running(folder / "escaped")
    os.kill(int((folder / "escaped").read_text()), 9)


async def test_attack_45_a_flood_is_cut_and_held_in_no_memory(folder: Path) -> None:
    began = time.monotonic()
    with pytest.raises(CertificateRefused, match="more than 65536 bytes"):
        await opened(folder, "exec head -c 1073741824 /dev/zero").sign(CSR_PEM, WEB, HOUR)
    assert time.monotonic() - began < 5
    with pytest.raises(AuthorityUnavailable, match=r"status 1 \(\d+ bytes"):
        await opened(folder, "head -c 10485760 /dev/zero >&2; exit 1").sign(CSR_PEM, WEB, HOUR)


async def test_attack_45_a_secret_on_standard_error_is_told_to_nobody(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ca = opened(folder, "echo token=hunter2 >&2; exit 1")
    with pytest.raises(AuthorityUnavailable) as failure:
        await ca.sign(CSR_PEM, WEB, HOUR)
    health = await ca.check()
    assert "14 bytes on standard error" in failure.value.message
    assert "hunter2" not in f"{failure.value} {failure.value.next_step} {health} {capfd.readouterr()}"


def _program_open_to_all(folder: Path) -> list[str]:
    return [str(script(folder / "sign", "true", mode=0o777))]


def _program_of_somebody_else(folder: Path) -> list[str]:
    os.chown(script(folder / "sign", "true", mode=0o755), 12345, 0)
    return [str(folder / "sign")]


def _folder_open_to_all(folder: Path) -> list[str]:
    (folder / "open").mkdir()
    (folder / "open").chmod(0o777)
    return [str(script(folder / "open/sign", "true"))]


def _script_open_to_all(folder: Path) -> list[str]:
    return ["/bin/sh", str(script(folder / "sign", "true", mode=0o777))]


def _link_in_a_folder_open_to_all(folder: Path) -> list[str]:
    (folder / "open").mkdir()
    (folder / "open/sign").symlink_to(script(folder / "sign", "true"))
    (folder / "open").chmod(0o777)
    (folder / "link").symlink_to(folder / "open/sign")
    return [str(folder / "link")]


def _loop_of_links(folder: Path) -> list[str]:
    (folder / "a").symlink_to(folder / "b")
    (folder / "b").symlink_to(folder / "a")
    return [str(folder / "a")]


def _not_absolute(folder: Path) -> list[str]:
    return ["sh"]


@pytest.mark.parametrize(
    "make",
    [
        _program_open_to_all,
        *([_program_of_somebody_else] if os.geteuid() == 0 else []),  # only root can make one
        _folder_open_to_all,
        _script_open_to_all,
        _link_in_a_folder_open_to_all,
        _loop_of_links,
        _not_absolute,
    ],
)
async def test_attack_45_a_program_that_others_may_change_is_not_run(
    folder: Path, make: Callable[[Path], list[str]]
) -> None:
    ca = at(folder, command=make(folder), roots_file=str(folder / "roots.pem"))
    with pytest.raises(AuthorityUnavailable, match="is not run"):
        await ca.sign(CSR_PEM, WEB, HOUR)
    assert not (await ca.check()).ok


async def test_attack_45_a_call_that_is_given_up_takes_the_program_with_it(folder: Path) -> None:
    ca = opened(folder, f"echo $$ > {folder}/pid; exec sleep 60")
    signing = asyncio.create_task(ca.sign(CSR_PEM, WEB, timedelta(hours=1)))
    async with asyncio.timeout(5):
        while not (folder / "pid").exists() or not (folder / "pid").read_text():
            await asyncio.sleep(0.01)
    signing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await signing
    await ended(folder / "pid")
    assert len(os.listdir("/proc/self/fd")) < 100
