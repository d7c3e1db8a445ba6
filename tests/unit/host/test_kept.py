"""The rules that are there again after a boot."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from meshagent.cli.main import cli
from meshagent.errors import CaptureFailed, UnsafeFile
from meshagent.host import nft
from meshagent.host.kept import keep, kept, without_cgroups
from meshagent.host.redirect import CapturedService, Redirection, rules

BY_USER = CapturedService("web", 15001, uid=51001, closed=(8080,))
BY_CGROUP = CapturedService("jobs", 15002, cgroup="system.slice/jobs.service", closed=(8090,))


@pytest.fixture
def applied(monkeypatch):
    """What nft was given; it refuses what names a cgroup where `there` is empty."""
    given = []

    def apply(text):
        if "cgroupv2" in text:
            raise CaptureFailed("nft refuses: cgroup not there")
        given.append(text)

    monkeypatch.setattr(nft, "apply", apply)
    return given


def restore(path):
    return CliRunner().invoke(cli, ["redirect", "restore", "--kept", str(path)])


def test_what_was_kept_is_put_in_force_without_an_agent(tmp_path, applied):
    text = rules(Redirection((BY_USER,), exempt=(990,)), None)
    keep(tmp_path / "rules.nft", text)
    assert (tmp_path / "rules.nft").stat().st_mode & 0o777 == 0o600
    done = restore(tmp_path / "rules.nft")
    assert done.exit_code == 0, done.output
    assert applied == [text]


def test_without_the_cgroups_all_else_is_in_force_ports_stay_closed_and_that_is_told(tmp_path, applied):
    keep(tmp_path / "rules.nft", rules(Redirection((BY_USER, BY_CGROUP), exempt=(990,)), None))
    done = restore(tmp_path / "rules.nft")
    assert done.exit_code != 0 and "but for what is said of cgroups" in done.output
    assert len(applied) == 1 and "jobs" not in applied[0]
    assert "8080, 8090" in applied[0] and "skuid 51001" in applied[0]


def test_what_others_could_have_written_is_not_believed(tmp_path, applied):
    keep(tmp_path / "rules.nft", "table inet meshagent {}")
    (tmp_path / "rules.nft").chmod(0o666)
    with pytest.raises(UnsafeFile):
        kept(tmp_path / "rules.nft")
    assert restore(tmp_path / "rules.nft").exit_code != 0 and applied == []


def test_what_nft_refuses_for_another_reason_is_a_failure(tmp_path, monkeypatch):
    def apply(text):
        raise CaptureFailed("nft is not on this host")

    monkeypatch.setattr(nft, "apply", apply)
    keep(tmp_path / "rules.nft", rules(Redirection((BY_USER,), exempt=(990,)), None))
    done = restore(tmp_path / "rules.nft")
    assert done.exit_code != 0 and "nft is not on this host" in done.output


def test_only_lines_of_cgroups_are_left_out():
    text = rules(Redirection((BY_USER, BY_CGROUP), exempt=(990,), egress="registered"), None)
    left, gone = without_cgroups(text).splitlines(), set(text.splitlines()) - set(without_cgroups(text).splitlines())
    assert all("cgroupv2" in line for line in gone) and len(gone) == 4
    assert not [line for line in left if "cgroupv2" in line]
