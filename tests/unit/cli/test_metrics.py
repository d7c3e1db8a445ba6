"""`meshagent metrics`: the pages of all hosts for Prometheus."""

from __future__ import annotations

import json


def test_each_host_that_has_a_page_is_a_target_with_its_name(mesh):
    mesh.report("vm-1", ["web"], 1, metrics="10.0.0.11:9102")
    mesh.report("vm-2", ["payments"], 1, metrics="[fd00::2]:9102")
    mesh.report("vm-3", ["batch"], 1)
    result = mesh.run("metrics", "targets")
    assert json.loads(result.stdout) == [
        {"targets": ["10.0.0.11:9102"], "labels": {"host": "vm-1"}},
        {"targets": ["[fd00::2]:9102"], "labels": {"host": "vm-2"}},
    ]
    assert "no page that others reach: vm-3" in result.stderr


def test_the_file_is_written_in_one_step_and_left_alone_when_it_says_the_same(mesh, tmp_path):
    file = tmp_path / "targets.json"
    mesh.report("vm-1", ["web"], 1, metrics="10.0.0.11:9102")
    mesh.run("metrics", "targets", "--out", str(file))
    assert file.stat().st_mode & 0o777 == 0o644 and sorted(tmp_path.glob("*targets*")) == [file]
    before = file.stat()
    mesh.run("metrics", "targets", "--out", str(file))
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    mesh.report("vm-2", ["web"], 1, metrics="10.0.0.12:9102")
    mesh.run("metrics", "targets", "--out", str(file))
    assert [group["labels"]["host"] for group in json.loads(file.read_text())] == ["vm-1", "vm-2"]


def test_following_needs_a_file_and_a_place_that_can_be_written(mesh, tmp_path):
    assert "name it with --out" in mesh.run("metrics", "targets", "--follow", code=2).stderr
    nowhere = str(tmp_path / "none/targets.json")
    assert "cannot be written" in mesh.run("metrics", "targets", "--out", nowhere, code=2).stderr
