"""Secrets that systemd hands to a unit."""

from __future__ import annotations

from pathlib import Path

from meshagent.config import Machine, make_config
from meshagent.config.credentials import with_credentials

ENV = {"CREDENTIALS_DIRECTORY": "/run/credentials/meshagent.service"}
TEXT = """
store: consul://127.0.0.1:8500
store_token_file: /etc/meshagent/secrets/store.token
store_ca_file: /etc/ssl/consul.pem
ca:
  provider: vault
  token_file: /etc/meshagent/secrets/vault.token
"""
MACHINE = Machine(990, "web-1", Path("/var/lib/meshagent"), lambda: "10.0.0.5")


def test_files_in_the_secrets_directory_are_read_from_systemds_copy_and_no_others():
    config = make_config(TEXT, "agent.yaml", ENV, {}, MACHINE)
    assert config.store_token_file == Path("/run/credentials/meshagent.service/secrets_store.token")
    assert config.ca.provider_settings["token_file"] == "/run/credentials/meshagent.service/secrets_vault.token"
    assert config.store_ca_file == Path("/etc/ssl/consul.pem")


def test_without_systemd_the_files_themselves_are_read():
    config = make_config(TEXT, "agent.yaml", {}, {}, MACHINE)
    assert config.store_token_file == Path("/etc/meshagent/secrets/store.token")


def test_the_authoritys_secrets_are_others():
    data = {"issuer": {"files": ["/etc/meshagent/authority-secrets/key", "/etc/meshagent/secrets/deep/er"]}, "n": 3}
    found = with_credentials(data, ENV)
    copy = "/run/credentials/meshagent.service/authority-secrets_key"
    assert found == {"issuer": {"files": [copy, "/etc/meshagent/secrets/deep/er"]}, "n": 3}
