"""A mesh from nothing, as a person types it, on stores that guard themselves: how many commands, and what secrets leak."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import sys
import urllib.error
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import yaml

from meshagent.model.joining import parse_join_line
from meshagent.state.keys import Keys
from tests.servers import consul, etcd
from tests.system.machines import Machine, machines
from tests.system.namespaces import passed_on

KEYS = Keys()
MOST_COMMANDS, MOST_FILES = 8, 2
HERE = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path):
    """A PATH on which `meshagent` is this checkout's."""
    script = tmp_path / "bin/meshagent"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nPYTHONPATH={HERE} exec {sys.executable} -m meshagent "$@"\n')
    script.chmod(0o755)
    return f"{script.parent}:{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"


class Person:
    """Types commands on a machine, and writes files there by hand. Both are counted."""

    def __init__(self, machine: Machine, path: str) -> None:
        self.machine = machine
        self.path = path
        self.typed: list[list[str]] = []
        self.written: list[str] = []
        self.said: list[str] = []

    def types(self, *words: str, given: str = "", **env: str) -> str:
        self.typed.append(list(words))
        done = self.machine.run(*words, given=given, env={"PATH": self.path, **env})
        assert done.returncode == 0, (words, done.stdout, done.stderr, self.log())
        self.said += [done.stdout, done.stderr]
        return done.stdout

    def calls(self, port: int) -> int:
        """curl, and the status that it got."""
        return int(self.types("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://127.0.0.1:{port}/"))

    def writes(self, place: str, text: str) -> str:
        self.written.append(place)
        file = self.machine.path(place)
        file.touch(0o600)
        file.write_text(text)
        return place

    def log(self) -> str:
        file = self.machine.path("/var/lib/meshagent/agent.log")
        return file.read_text()[-3000:] if file.exists() else "no log"


@asynccontextmanager
async def app(machine: Machine, port: int):
    """An HTTP server on the machine's loopback."""
    empty = machine.path("/var/lib/www")
    empty.mkdir()
    words = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", "/var/lib/www"]
    process = subprocess.Popen([*machine.within(), *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def one_host(person: Person, url: str, secrets: dict[str, str], *init: str, **env: str) -> None:
    """The whole of it; `init` are the words about the store's guard."""
    builtin = ("--ca", "builtin", "--services", "web,payments", "--start")
    person.types("meshagent", "init", "--store", url, *init, *builtin, **env)
    person.types("meshagent", "up", "payments", "--port", "8080", "--protocol", "http")
    person.types("meshagent", "up", "web", "--port", "8081", "--protocol", "http", "--upstream", "payments:9191")
    person.types("meshagent", "intention", "allow", "web", "payments", "--wait")
    assert person.calls(9191) == 200
    person.types("meshagent", "intention", "deny", "web", "payments", "--wait")
    assert person.calls(9191) == 403
    assert len(person.typed) <= MOST_COMMANDS and len(person.written) <= MOST_FILES
    assert_private(person, secrets)


def assert_private(person: Person, secrets: dict[str, str]) -> None:
    """No secret in the arguments or environment of a process, in a log, in what commands print, in a readable file."""
    machine = person.machine
    kept = secrets | {str(file): _secret_part(file.read_text()) for file in secret_files(machine)}
    assert len(kept) >= len(secrets) + 3, kept.keys()
    places = {f"said {number}": text.encode() for number, text in enumerate(person.said)}
    for words in (("status", "-o", "json"), ("proxy", "config"), ("token", "list"), ("doctor",)):
        done = machine.run("meshagent", *words, env={"PATH": person.path})
        places[" ".join(words)] = (done.stdout + done.stderr).encode()
    for pid in machine.pids():
        for name in ("cmdline", "environ"):
            with suppress(OSError):
                places[f"{pid} {name}"] = Path(f"/proc/{pid}/{name}").read_bytes()
    homes = [machine.path(place) for place in ("/var/lib/meshagent", "/var/lib/meshagent-authority", "/etc/meshagent")]
    files = [file for home in homes for file in home.rglob("*") if file.is_file()]
    open_to_see = (".log", ".json", ".jsonl", ".yaml", ".stderr", ".stdout")
    places |= {str(file): file.read_bytes() for file in files if file.suffix in open_to_see}
    assert len(places) > 12
    for what, secret in kept.items():
        found = [place for place, content in places.items() if secret.encode() in content]
        assert not found, (what, found)
    for file in files:
        if any(secret.encode() in file.read_bytes() for secret in kept.values()):
            assert file.stat().st_mode & 0o077 == 0, file


def secret_files(machine: Machine) -> list[Path]:
    """Where a host keeps keys, tokens and passwords."""
    data = machine.path("/var/lib/meshagent")
    files = [*data.rglob("*.key"), *data.glob("store.*"), *data.glob("identities/*.pem")]
    authority = machine.path("/var/lib/meshagent-authority")
    files += [*authority.rglob("*.key"), *authority.glob("store.*")]
    return [*files, *machine.path("/etc/meshagent").glob("operator.[tp]*")]


def _secret_part(text: str) -> str:
    """One line of a private key's body, or the whole of a token."""
    lines = text.strip().splitlines()
    return lines[1] if lines[0].startswith("-----BEGIN") else lines[0]


def secrets_of(machine: Machine) -> list[bytes]:
    """The secrets that a host keeps, as bytes to search for."""
    return [_secret_part(file.read_text()).encode() for file in secret_files(machine)]


async def test_one_host_with_consuls_acls_on_takes_seven_commands_and_one_file_and_leaks_nothing(tmp_path, path):
    with consul.servers(acl=True) as servers:
        async with machines(tmp_path, "vm-a") as (network, (machine,)), passed_on(network, servers.nodes[0].http) as at:
            person = Person(machine, path)
            token = person.writes("/var/lib/management.token", servers.token)
            async with app(machine, 8080):
                secrets = {"management token": servers.token}
                words = ("--store-token-file", token)
                await asyncio.to_thread(one_host, person, f"consul://{at}", secrets, *words)
            held = servers.call("GET", "/v1/kv/?recurse")
            values = [base64.b64decode(each["Value"] or "") for each in held]
            assert len(values) > 4
            for secret in (*secrets_of(machine), servers.token.encode()):
                assert not any(secret in value for value in values)
                assert secret.decode() not in servers.nodes[0].log()
            agent = machine.path("/var/lib/meshagent/store.token").read_text().strip()
            operator = machine.path("/etc/meshagent/operator.token").read_text().strip()
            assert len({agent, operator, servers.token}) == 3
            for who, method, key, allowed in (
                (agent, "PUT", KEYS.report("vm-a"), True),
                (agent, "PUT", KEYS.report("vm-b"), False),
                (agent, "PUT", KEYS.mesh, False),
                (agent, "PUT", KEYS.bundle, False),
                (agent, "PUT", "elsewhere", False),
                (agent, "GET", KEYS.grant("vm-a"), False),
                (agent, "GET", KEYS.token("0a"), False),
                (operator, "PUT", KEYS.bundle, False),
                (operator, "PUT", "elsewhere", False),
                (operator, "PUT", KEYS.document("service", "x"), True),
            ):
                assert consul_allows(servers, who, method, key) == allowed, (method, key)


def consul_allows(servers: consul.Servers, token: str, method: str, key: str) -> bool:
    try:
        servers.call(method, f"/v1/kv/{key}", b"{}" if method == "PUT" else None, token=token)
    except urllib.error.HTTPError as error:
        return error.code == 404  # it may look, and there is nothing
    return True


async def test_one_host_with_etcds_authentication_on_takes_as_few_and_leaks_nothing(tmp_path, path):
    with etcd.servers(guarded=True) as servers:
        async with (
            machines(tmp_path, "vm-a") as (network, (machine,)),
            passed_on(network, servers.members[0].client) as at,
        ):
            person = Person(machine, path)
            file = person.writes("/var/lib/etcd.password", etcd.ROOT_PASSWORD)
            env = {"MESHAGENT_STORE_USERNAME": "root", "MESHAGENT_STORE_PASSWORD_FILE": file}
            async with app(machine, 8080):
                secrets = {"root's password": etcd.ROOT_PASSWORD}
                await asyncio.to_thread(one_host, person, f"etcd://{at}", secrets, **env)
            held = servers.ctl("get", "--prefix", "", "--write-out=simple").encode()
            assert KEYS.manifest.encode() in held
            assert not any(secret in held for secret in secrets_of(machine))
            told = yaml.safe_load(machine.path("/etc/meshagent/agent.yaml").read_text())
            assert told["store_username"].startswith("meshagent-agent-vm-a-")


def two_hosts(first: Person, second: Person, url: str, secrets: dict[str, str], *init: str, **env: str) -> str:
    """Show: eight commands on two machines. Returns the join line."""
    words = ("--services", "web", "--join", "vm-b=payments", "--start")
    line = first.types("meshagent", "init", "--store", url, *init, *words, **env)
    first.said.pop(-2)  # it was shown once, to the person whom it is for
    second.types("meshagent", "join", "--start", given=line)
    second.types("meshagent", "up", "payments", "--port", "8080", "--protocol", "http")
    first.types("meshagent", "up", "web", "--port", "8081", "--protocol", "http", "--upstream", "payments:9191")
    first.types("meshagent", "intention", "allow", "web", "payments", "--wait")
    assert first.calls(9191) == 200
    first.types("meshagent", "intention", "deny", "web", "payments", "--wait")
    assert first.calls(9191) == 403
    assert len(first.typed) + len(second.typed) <= MOST_COMMANDS
    assert len(first.written) + len(second.written) <= MOST_FILES
    used = {"join line": line.strip(), "join token": parse_join_line(line).token}
    for person in (first, second):
        assert_private(person, secrets | used)
    return line


async def test_eight_commands_and_one_file_make_a_mesh_of_two_hosts_on_a_consul_with_acls(tmp_path, path):
    with consul.servers(acl=True) as servers:
        async with (
            machines(tmp_path, "vm-a", "vm-b") as (network, (here, there)),
            passed_on(network, servers.nodes[0].http) as at,
            app(there, 8080),
        ):
            first, second = Person(here, path), Person(there, path)
            token = first.writes("/var/lib/management.token", servers.token)
            secrets, words = {"management token": servers.token}, ("--store-token-file", token)
            line = await asyncio.to_thread(two_hosts, first, second, f"consul://{at}", secrets, *words)
            held = servers.call("GET", "/v1/kv/?recurse")
            values = b"\n".join(base64.b64decode(each["Value"] or "") for each in held)
            log = servers.nodes[0].log().encode()
            used = parse_join_line(line).token.encode()
            for secret in (*secrets_of(here), *secrets_of(there), servers.token.encode(), line.strip().encode(), used):
                assert secret not in values and secret not in log
            own = there.path("/var/lib/meshagent/store.token").read_text().strip()
            signing = here.path("/var/lib/meshagent-authority/store.token").read_text().strip()
            for who, method, key, allowed in (
                (own, "PUT", KEYS.report("vm-b"), True),
                (own, "PUT", KEYS.report("vm-a"), False),
                (own, "PUT", KEYS.mesh, False),
                (own, "PUT", "elsewhere", False),
                (own, "GET", KEYS.grant("vm-b"), False),
                (own, "GET", KEYS.signers, False),
                (signing, "PUT", KEYS.document("intention", "payments"), False),
                (signing, "PUT", "elsewhere", False),
            ):
                assert consul_allows(servers, who, method, key) == allowed, (method, key)


async def test_as_few_make_one_on_an_etcd_with_authentication(tmp_path, path):
    with etcd.servers(guarded=True) as servers:
        async with (
            machines(tmp_path, "vm-a", "vm-b") as (network, (here, there)),
            passed_on(network, servers.members[0].client) as at,
            app(there, 8080),
        ):
            first, second = Person(here, path), Person(there, path)
            file = first.writes("/var/lib/etcd.password", etcd.ROOT_PASSWORD)
            env = {"MESHAGENT_STORE_USERNAME": "root", "MESHAGENT_STORE_PASSWORD_FILE": file}
            secrets = {"root's password": etcd.ROOT_PASSWORD}
            line = await asyncio.to_thread(two_hosts, first, second, f"etcd://{at}", secrets, **env)
            held = servers.ctl("get", "--prefix", "", "--write-out=simple").encode()
            assert KEYS.grant("vm-b").encode() in held
            for secret in (*secrets_of(here), *secrets_of(there), parse_join_line(line).token.encode()):
                assert secret not in held
