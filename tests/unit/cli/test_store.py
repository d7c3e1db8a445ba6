"""`meshagent store` on the command line."""

from __future__ import annotations


def test_a_mesh_is_copied_to_another_store_and_the_counts_are_told(mesh, tmp_path):
    mesh.run("intention", "allow", "web", "payments")
    source, target = mesh.env["MESHAGENT_STORE"], f"sqlite://{tmp_path}/new.db"
    dry = mesh.json("store", "copy", source, target, "--dry-run")
    assert (dry["documents"], dry["history"], dry["revision"], dry["before"]) == (2, 2, 2, 0) and dry["dry_run"]
    wrote = mesh.run("store", "copy", source, target)
    assert f"wrote {dry['writes']} keys" in wrote.stdout and "restart" in wrote.stderr
    assert "holds it already" in mesh.run("store", "copy", source, target).stdout
    mesh.env["MESHAGENT_STORE"] = target
    assert "web" in mesh.run("intention", "list").stdout
    mesh.run("intention", "deny", "web", "payments")
    refused = mesh.run("store", "copy", source, target, code=1).stderr
    assert "another mesh" in refused and "delete the keys below meshagent/v1/" in refused


def test_a_source_that_is_not_there_is_not_made(mesh, tmp_path):
    result = mesh.run("store", "copy", f"sqlite://{tmp_path}/none.db", f"sqlite://{tmp_path}/new.db", code=4)
    assert "there is no store" in result.stderr
    assert not (tmp_path / "none.db").exists()
