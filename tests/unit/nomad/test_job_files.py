"""The jobs under nomad/ stand to what Nomad documents; and the check finds what does not."""

from __future__ import annotations

import pytest

from tests.nomad.blocks import faults
from tests.nomad.jobfile import JOBS, read

FILES = sorted(JOBS.glob("*.nomad.hcl"))
SIDECAR = (JOBS / "sidecar.nomad.hcl").read_text()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_job_file_holds_only_what_nomad_documents(file):
    assert list(faults(read(file.read_text()))) == []


def test_there_are_jobs_for_each_way():
    assert [file.name.partition(".")[0] for file in FILES] == ["app-on-system", "host-network", "sidecar", "system"]


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        ("kill_timeout = ", "kill_tiemout = ", "kill_tiemout is no attribute"),
        ('driver       = "exec"', 'driver       = "exce"', "driver cannot be 'exce'"),
        ("lifecycle {", "lifecycles {", "lifecycles is no block"),
        ('hook    = "prestart"', 'hook    = "before"', "hook cannot be 'before'"),
        ('ttl         = "1h"', 'ttl         = "one hour"', "ttl cannot be"),
        ('aud         = ["meshagent"]', "aud = []", "has an audience and a life"),
        ('change_mode = "noop"', 'change_mode = "signal"', "change_signal goes with"),
        ("destination = ", "target = ", "destination is missing"),
        ('port     = "mesh"', 'port     = "mash"', "names a port that the network does not have"),
        ('driver       = "exec"', 'driver       = "raw_exec"', "raw_exec has no network of its own"),
        ('perms       = "0600"', 'perms       = "600x"', "perms cannot be"),
        ("      config {", "      config {}\n      config {", "config stands there 2 times"),
    ],
)
def test_the_check_finds(good, bad, said):
    assert good in SIDECAR
    assert said in "\n".join(faults(read(SIDECAR.replace(good, bad, 1))))


def test_no_job_carries_a_secret_in_its_text():
    for file in FILES:
        for block in read(file.read_text()).walk():
            if block.kind == "template" and block.attributes["destination"].startswith("secrets/"):
                assert block.attributes["data"].startswith("{{ with nomadVar")
                assert block.attributes["perms"] == "0600"
