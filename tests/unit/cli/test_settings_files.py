"""Settings files that commands write: private, read back by the agent, and what was said before of other keys stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshagent.cli.settings_files import agent_settings, kept_credential, merge, older_settings, write_settings
from meshagent.config import Machine, make_config
from meshagent.errors import InvalidDocument, UnsafeFile
from meshagent.store.credentials import Credential

STORE = "consul://10.0.0.5:8500"


def read_back(path: Path):
    machine = Machine(0, "vm-1", Path("/root"), lambda: "10.0.0.1")
    return make_config(path.read_text(), str(path), {}, {}, machine)


def test_what_is_written_is_an_agents_configuration(tmp_path):
    access = kept_credential(Credential(token="T"), tmp_path / "data")
    path = tmp_path / "etc" / "agent.yaml"
    write_settings(path, agent_settings(STORE, {"name": "vm-1"}, ["10.0.0.5:8443"], access), "meshagent join")
    config = read_back(path)
    assert (config.store, config.store_token_file) == (STORE, tmp_path / "data/store.token")
    assert (config.host.name, config.host.address, config.ca.provider) == ("vm-1", "10.0.0.1", "authority")
    assert config.ca.provider_settings == {"addresses": ["10.0.0.5:8443"]}
    assert path.stat().st_mode & 0o777 == (tmp_path / "data/store.token").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "data/store.token").read_text() == "T\n"
    assert "T\n" not in path.read_text().splitlines()


def test_a_user_and_password_are_kept_apart(tmp_path):
    access = kept_credential(Credential(username="agent", password="secret"), tmp_path)
    assert access == {"store_username": "agent", "store_password_file": tmp_path / "store.password"}
    assert (tmp_path / "store.password").read_text() == "secret\n"


def test_what_was_said_before_of_other_keys_stays_and_the_old_way_to_the_store_goes(tmp_path):
    path = tmp_path / "agent.yaml"
    path.write_text("store: etcd://x:1\nstore_username: old\nhost: {name: a, zone: z}\ninbound_port: 21001\n")
    write_settings(path, agent_settings(STORE, {"name": "vm-1"}, ["10.0.0.5:8443"], {}), "meshagent join")
    config = read_back(path)
    assert (config.store, config.store_username, config.inbound_port) == (STORE, "", 21001)
    assert (config.host.name, config.host.zone) == ("vm-1", "z")


@pytest.mark.parametrize(("directory", "file"), [(0o700, 0o600), (0o755, 0o600), (0o2750, 0o640)])
def test_the_directorys_group_may_read_settings_only_where_it_has_the_setgid_bit(tmp_path, directory, file):
    path = tmp_path / "etc" / "agent.yaml"
    path.parent.mkdir()
    path.parent.chmod(directory)
    write_settings(path, {"store": STORE}, "meshagent join")
    assert path.stat().st_mode & 0o777 == file


def test_what_does_not_name_a_store_leaves_the_way_to_it_alone():
    older = {"store": STORE, "store_token_file": "/t"}
    assert merge(older, {"ca": {"provider": "builtin"}}) == {**older, "ca": {"provider": "builtin"}}


@pytest.mark.parametrize("text", ["- a\n", "a: [\n", "just text\n"])
def test_an_older_file_that_is_no_mapping_is_not_overwritten(tmp_path, text):
    path = tmp_path / "agent.yaml"
    path.write_text(text)
    with pytest.raises(InvalidDocument):
        write_settings(path, {"store": STORE}, "x")
    assert path.read_text() == text


def test_a_planted_link_is_not_followed(tmp_path):
    (tmp_path / "there").write_text("")
    (tmp_path / "agent.yaml").symlink_to(tmp_path / "there")
    with pytest.raises(UnsafeFile):
        write_settings(tmp_path / "agent.yaml", {"store": STORE}, "x")
    assert (tmp_path / "there").read_text() == ""


def test_no_older_file_says_nothing(tmp_path):
    assert older_settings(tmp_path / "absent.yaml") == {}
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert older_settings(tmp_path / "empty.yaml") == {}
