"""`meshagent store` on the command line."""

from __future__ import annotations


def test_a_mesh_is_copied_to_another_store_and_the_counts_are_told(mesh, tmp_path):
    mesh.run("intention", "allow", "web", "payments")
    source, target = mesh.env["MESHAGENT_STORE"], f"sqlite://{tmp_path}/new.db"
    dry = mesh.json("store", "copy", source, target, "--dry-run")
    assert (dry["documents"], dry["history"], dry["revision"], dry["before"]) == (2, 2, 2, 0) and dry["dry_run"]
    assert not (tmp_path / "new.db").exists()
    wrote = mesh.run("store", "copy", source, target)
    assert f"wrote {dry['writes']} keys" in wrote.stdout and "restart" in wrote.stderr
    assert "holds it already" in mesh.run("store", "copy", source, target).stdout
    mesh.env["MESHAGENT_STORE"] = target
    assert "web" in mesh.run("intention", "list").stdout
    mesh.run("intention", "deny", "web", "payments")
    refused = mesh.run("store", "copy", source, target, code=1).stderr
    assert "newer state" in refused and "delete the keys below meshagent/v1/" in refused


def test_a_source_that_is_not_there_is_not_made(mesh, tmp_path):
    result = mesh.run("store", "copy", f"sqlite://{tmp_path}/none.db", f"sqlite://{tmp_path}/new.db", code=4)
    assert "there is no store" in result.stderr
    assert not (tmp_path / "none.db").exists()


def test_the_rights_of_an_agent_are_printed_as_consul_takes_them(mesh):
    words = ("store", "policy", "--for", "agent", "--host", "vm-1", "--services", "web, batch")
    lines = mesh.run(*words, "--node", "n1", "--store", "consul://127.0.0.1:8500").stdout.splitlines()
    assert lines[0].startswith("# meshagent agent on vm-1 for web, batch: consul acl policy create")
    assert lines[1:] == [
        'key_prefix "meshagent/v1/config/" { policy = "read" }',
        'key "meshagent/v1/trust/bundle" { policy = "read" }',
        'key "meshagent/v1/status/vm-1" { policy = "write" }',
        'key_prefix "meshagent/v1/rollouts/" { policy = "read" }',
        'key "meshagent/v1/rollouts/web/progress" { policy = "write" }',
        'key "meshagent/v1/rollouts/web/measured/vm-1" { policy = "write" }',
        'key "meshagent/v1/rollouts/batch/progress" { policy = "write" }',
        'key "meshagent/v1/rollouts/batch/measured/vm-1" { policy = "write" }',
        'key_prefix "meshagent/v1/acme/" { policy = "read" }',
        'key "meshagent/v1/acme/web/vm-1" { policy = "write" }',
        'key "meshagent/v1/acme/batch/vm-1" { policy = "write" }',
        'service_prefix "" { policy = "read" }',
        'node_prefix "" { policy = "read" }',
        'service "web" { policy = "write" }',
        'service "web-sidecar-proxy" { policy = "write" }',
        'service "batch" { policy = "write" }',
        'service "batch-sidecar-proxy" { policy = "write" }',
        'agent "n1" { policy = "read" }',
        'session "n1" { policy = "write" }',
    ]


def test_the_rights_of_hosts_that_come_and_go_are_those_of_all_whose_name_begins_so(mesh):
    words = ("store", "policy", "--for", "agent", "--host", "web-*", "--services", "web", "--node", "*")
    consul = mesh.run(*words, "--kind", "consul").stdout.splitlines()
    assert consul[0].endswith("consul acl policy create -name meshagent-agent-web -rules @FILE")
    assert 'key_prefix "meshagent/v1/status/web-" { policy = "write" }' in consul
    assert consul[-2:] == ['agent_prefix "" { policy = "read" }', 'session_prefix "" { policy = "write" }']
    grant = "etcdctl role grant-permission --prefix=true meshagent-agent-web readwrite"
    etcd = mesh.run(*words, "--kind", "etcd").stdout.splitlines()
    assert f"{grant} meshagent/v1/status/web-" in etcd
    assert f"{grant} meshagent/v1/rollouts/web/measured/web-" in etcd
    assert f"{grant} meshagent/v1/instances/web/web-" in etcd


def test_the_rights_of_an_operator_are_printed_as_commands_for_etcd(mesh):
    found = mesh.json("store", "policy", "--for", "operator", "--kind", "etcd")
    grant = "etcdctl role grant-permission"
    assert found["name"] == "meshagent-operator" and found["text"].splitlines()[1:] == [
        "etcdctl role add meshagent-operator",
        f"{grant} --prefix=true meshagent-operator readwrite meshagent/v1/config/",
        f"{grant} meshagent-operator read meshagent/v1/trust/bundle",
        f"{grant} --prefix=true meshagent-operator read meshagent/v1/status/",
        f"{grant} --prefix=true meshagent-operator read meshagent/v1/rollouts/",
        f"{grant} --prefix=true meshagent-operator read meshagent/v1/authority/signers/",
        f"{grant} --prefix=true meshagent-operator readwrite meshagent/v1/authority/tokens/",
        f"{grant} --prefix=true meshagent-operator readwrite meshagent/v1/authority/grants/",
        f"{grant} --prefix=true meshagent-operator read meshagent/v1/instances/",
    ]


def test_rights_that_nobody_could_mean_are_refused(mesh):
    for words in (
        ("--for", "agent", "--kind", "consul"),
        ("--for", "agent", "--kind", "consul", "--host", "vm-1"),
        ("--for", "agent", "--kind", "consul", "--host", "VM 1", "--services", "web"),
        ("--for", "agent", "--kind", "consul", "--host", "*", "--services", "web"),
        ("--for", "agent", "--kind", "consul", "--host", "w*", "--services", "web"),
        ("--for", "agent", "--kind", "consul", "--host", "vm-1", "--services", "web,../x"),
        ("--for", "operator", "--kind", "consul", "--host", "vm-1"),
        ("--for", "operator"),
    ):
        mesh.run("store", "policy", *words, code=2)
    assert "an owner and a mode" in mesh.run("store", "policy", "--for", "operator", code=2).stderr
