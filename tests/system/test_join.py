"""`meshagent join` as a person runs it, at an authority that the test plays."""

from __future__ import annotations

import asyncio
import json
import os
import sys

import pytest
import yaml

from meshagent.model.joining import JoinLine
from meshagent.state.credentials import packed
from meshagent.state.enrolment import new_token, seal
from meshagent.store.credentials import Credential
from tests.system.impostors import DOMAIN, Root, standing
from tests.system.test_attacks_join import AUTHORITY, signer

STORE = "consul://10.77.0.1:8500"


class Newcomer:
    """A host that is to join: its directories and what it runs."""

    def __init__(self, directory):
        self.directory = directory
        self.data = directory / "state/meshagent"
        self.config = directory / "config/meshagent/agent.yaml"

    async def run(self, *words, given="", code=0):
        names = {"XDG_CONFIG_HOME": "config", "XDG_STATE_HOME": "state", "XDG_RUNTIME_DIR": "run"}
        env = {name: value for name, value in os.environ.items() if not name.startswith("MESHAGENT_")}
        env |= {name: str(self.directory / value) for name, value in names.items()} | {
            "MESHAGENT_DATA_DIR": str(self.data),
            "MESHAGENT_CONFIG": str(self.config),
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "meshagent", *words),
            env=env,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate(given.encode())
        assert process.returncode == code, (out, err)
        return out.decode(), err.decode()


@pytest.fixture
def newcomer(tmp_path):
    return Newcomer(tmp_path)


def playing(tmp_path, root, token, credential=None, host="vm-b", **more):
    enrol = signer(root, f"spiffe://{DOMAIN}/host/{host}")

    def answer(body):
        assert (body["token"], body["host"]) == (token, host)
        return enrol(body) | {"store": STORE, "sealed": seal(token, packed(credential)) if credential else ""}

    return standing(tmp_path, root, AUTHORITY, **({"roots": {"roots": [root.pem]}, "enrol": answer} | more))


async def test_join_writes_what_an_agent_needs_starts_nothing_and_prints_no_secret(newcomer, tmp_path):
    root, token = Root(), new_token()
    async with playing(tmp_path, root, token, Credential(token="store-secret")) as authority:
        line = JoinLine((authority.address,), root.fingerprint, token, DOMAIN).text()
        out, err = await newcomer.run("join", "--host-name", "vm-b", given=line)
    assert "vm-b has joined mesh.internal and may run web" in out and "meshagent agent" in err
    written = yaml.safe_load(newcomer.config.read_text())
    assert written == {
        "store": STORE,
        "store_token_file": str(newcomer.data / "store.token"),
        "host": {"name": "vm-b"},
        "ca": {"provider": "authority", "addresses": [authority.address]},
    }
    assert (newcomer.data / "store.token").read_text().strip() == "store-secret"
    assert {path.name for path in newcomer.data.iterdir()} == {"host.key", "host.pem", "roots.pem", "store.token"}
    for path in (newcomer.config, *newcomer.data.iterdir()):
        assert path.stat().st_mode & 0o777 == 0o600, path
    for secret in (token, line, "store-secret"):
        assert secret not in out + err and secret not in newcomer.config.read_text()


async def test_a_second_join_says_so_and_asks_nobody_and_replace_joins_anew_with_another_key(newcomer, tmp_path):
    root, token = Root(), new_token()
    async with playing(tmp_path, root, token) as authority:
        line = JoinLine((authority.address,), root.fingerprint, token, DOMAIN).text()
        file = tmp_path / "line"
        file.touch(0o600)
        file.write_text(line)
        await newcomer.run("join", "--host-name", "vm-b", "--from", str(file))
        enrolled = authority.answers["enrol"]
        key, asked = (newcomer.data / "host.key").read_bytes(), len(authority.asked)
        out, _ = await newcomer.run("join", "-o", "json", given=line)
        assert json.loads(out)["host"] == "vm-b" and json.loads(out)["trust_domain"] == DOMAIN
        assert len(authority.asked) == asked
        authority.answers["enrol"] = (403, {"message": "it is used"})
        await newcomer.run("join", "--host-name", "vm-b", "--replace", given=line, code=1)
        assert (newcomer.data / "host.key").read_bytes() == key
        authority.answers["enrol"] = enrolled
        await newcomer.run("join", "--host-name", "vm-b", "--replace", given=line)
    assert (newcomer.data / "host.key").read_bytes() != key


async def test_a_user_and_password_of_etcd_are_kept_as_settings_and_a_file(newcomer, tmp_path):
    root, token = Root(), new_token()
    async with playing(tmp_path, root, token, Credential(username="agent-vm-b", password="pass-secret")) as authority:
        line = JoinLine((authority.address,), root.fingerprint, token, DOMAIN).text()
        await newcomer.run("join", "--host-name", "vm-b", "--store", "etcd://10.0.0.5:2379", given=line)
    written = yaml.safe_load(newcomer.config.read_text())
    assert (written["store"], written["store_username"]) == ("etcd://10.0.0.5:2379", "agent-vm-b")
    assert (newcomer.data / "store.password").read_text().strip() == "pass-secret"


async def test_a_join_line_as_an_argument_is_refused_and_not_repeated(newcomer):
    line = JoinLine(("10.0.0.5:8443",), "sha256:" + "ab" * 32, new_token(), DOMAIN).text()
    out, err = await newcomer.run("join", line, code=2)
    assert "every user of this machine can read arguments" in err and line not in out + err


@pytest.mark.parametrize("given", ["", "nonsense", "mesh1.AAAA"])
async def test_what_is_no_line_is_told(newcomer, given):
    _, err = await newcomer.run("join", given=given, code=2)
    assert "error: what was given" in err and "token create" in err
    assert not newcomer.config.exists()


async def test_refusals_and_absence_are_told_with_the_next_step_and_leave_no_configuration(newcomer, tmp_path):
    root, token = Root(), new_token()
    no = (403, {"code": "E603", "message": "the token has expired", "next_step": "meshagent token create"})
    async with playing(tmp_path, root, token, enrol=no) as authority:
        line = JoinLine((authority.address,), root.fingerprint, token, DOMAIN)
        _, err = await newcomer.run("join", "--host-name", "vm-b", given=line.text(), code=1)
        assert "the token has expired" in err and "next: meshagent token create" in err
        other = JoinLine(line.addresses, Root().fingerprint, token, DOMAIN)
        _, err = await newcomer.run("join", "--host-name", "vm-b", given=other.text(), code=1)
        assert "does not have the root of the join line" in err and "nothing was sent" in err
    _, err = await newcomer.run("join", "--host-name", "vm-b", given=line.text(), code=1)
    assert "no authority answers" in err and "next: check that" in err
    assert not newcomer.config.exists()


async def test_a_configuration_that_cannot_be_read_is_told_before_the_token_is_spent(newcomer, tmp_path):
    root, token = Root(), new_token()
    newcomer.config.parent.mkdir(parents=True)
    newcomer.config.write_text("- nonsense\n")
    async with playing(tmp_path, root, token) as authority:
        line = JoinLine((authority.address,), root.fingerprint, token, DOMAIN)
        await newcomer.run("join", given=line.text(), code=3)
        assert authority.asked == []


async def test_a_store_credential_that_somebody_changed_is_refused(newcomer, tmp_path):
    root, token = Root(), new_token()
    enrol = signer(root, f"spiffe://{DOMAIN}/host/vm-b")

    def answer(body):
        return enrol(body) | {"store": STORE, "sealed": seal(new_token(), b"{}")}

    async with playing(tmp_path, root, token, enrol=answer) as authority:
        line = JoinLine((authority.address,), root.fingerprint, token, DOMAIN)
        _, err = await newcomer.run("join", "--host-name", "vm-b", given=line.text(), code=1)
    assert "somebody changed it" in err
    assert not newcomer.config.exists()
