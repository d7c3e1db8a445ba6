"""Signed policy on the command line: a key, a mesh that begins to sign, and who may change it afterwards."""

from __future__ import annotations

import stat

import pytest

from meshagent.config import load_config
from meshagent.errors import NotFound, UsageProblem
from meshagent.state.operator_keys import load_signing


@pytest.fixture
def key(mesh, tmp_path):
    """The file of a new key and its public half."""
    return tmp_path / "ann.pem", mesh.json("policy", "key", str(tmp_path / "ann.pem"))["public_key"]


def test_a_key_is_made_once_and_for_its_owner_alone(mesh, key, tmp_path):
    path, public = key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and public.startswith("ed25519:")
    held = path.read_bytes()
    assert "there already" in mesh.run("policy", "key", str(path), code=2).stderr
    assert path.read_bytes() == held
    (tmp_path / "link.pem").symlink_to(tmp_path / "elsewhere.pem")
    mesh.run("policy", "key", str(tmp_path / "link.pem"), code=2)
    assert not (tmp_path / "elsewhere.pem").exists()


def test_a_mesh_begins_to_sign_and_is_changed_only_with_the_key(mesh, key):
    path, public = key
    mesh.run("intention", "allow", "web", "payments")
    mesh.env["MESHAGENT_POLICY_SIGNING_KEY"] = str(path)
    assert "--adopt" in mesh.run("intention", "deny", "web", "payments", code=1).stderr
    assert "is not signed" in mesh.run("policy", "sign", code=1).stderr
    assert mesh.json("policy", "sign", "--adopt")["documents"] == 2
    mesh.run("intention", "deny", "web", "payments")
    mesh.run("policy", "sign")
    del mesh.env["MESHAGENT_POLICY_SIGNING_KEY"]
    refused = mesh.run("intention", "allow", "web", "payments", code=1).stderr
    assert "is signed" in refused and "policy_signing_key" in refused
    mesh.env["MESHAGENT_POLICY_PUBLIC_KEYS"] = public
    assert mesh.run("intention", "check", "web", "payments", code=5).stdout
    mesh.run("policy", "sign", code=1)


def test_init_signs_where_there_is_a_key_and_others_do_not_believe_it(env, key, mesh, tmp_path):
    path, public = key
    mesh.env["MESHAGENT_STORE"] = f"sqlite://{tmp_path}/new.db"
    mesh.env["MESHAGENT_POLICY_SIGNING_KEY"] = str(path)
    (tmp_path / "agent.yaml").write_text(f"data_dir: {tmp_path}/data\n")
    init = ("init", "--config", str(tmp_path / "agent.yaml"))
    unable = {"MESHAGENT_POLICY_SIGNING_KEY": "", "MESHAGENT_POLICY_PUBLIC_KEYS": public}
    assert "no key to sign" in type(mesh)(mesh.env | unable).run(*init, code=1).stderr
    mesh.run(*init)
    mesh.run("intention", "allow", "web", "payments")
    del mesh.env["MESHAGENT_POLICY_SIGNING_KEY"]
    mesh.env["MESHAGENT_POLICY_PUBLIC_KEYS"] = public
    assert "web" in mesh.run("intention", "list").stdout
    mesh.env["MESHAGENT_POLICY_PUBLIC_KEYS"] = mesh.json("policy", "key", str(tmp_path / "eve.pem"))["public_key"]
    assert "not trusted here" in mesh.run("intention", "list", code=1).stderr


def test_keys_come_from_texts_and_files_and_what_is_none_is_refused(key, tmp_path, env):
    path, public = key
    (tmp_path / "ann.pub").write_text(f"{public}\n")
    read = {
        given: load_signing(load_config(None, {}, {"MESHAGENT_POLICY_PUBLIC_KEYS": given})).trust
        for given in (public, f"{tmp_path}/ann.pub", f"{public}, {tmp_path}/ann.pub")
    }
    assert len({tuple(trust.keys.items()) for trust in read.values()}) == 1
    signing = load_signing(load_config(None, {}, {"MESHAGENT_POLICY_SIGNING_KEY": str(path)}))
    assert signing.signer is not None and signing.trust == read[public]
    assert not load_signing(load_config(None, {}, {})).trust
    for given in ("ed25519:AAAA", str(path), f"{tmp_path}/none.pub"):
        with pytest.raises(UsageProblem, match="policy_public_keys"):
            load_signing(load_config(None, {}, {"MESHAGENT_POLICY_PUBLIC_KEYS": given}))
    with pytest.raises(NotFound, match="does not exist"):
        load_signing(load_config(None, {}, {"MESHAGENT_POLICY_SIGNING_KEY": f"{tmp_path}/none.pem"}))
