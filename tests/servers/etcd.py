"""Real etcd servers on loopback, each in a directory of its own: one, one with authentication, with TLS, a cluster of three.

A member keeps its data over `kill` and `start`, and `freeze` stops it without closing a connection. Ended by pid.
"""

from __future__ import annotations

import ipaddress
import itertools
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.servers.programs import program

PATIENCE = 40.0
ROOT_PASSWORD = "of the root"
_ports = itertools.cycle(range(20000 + os.getpid() % 60 * 120, 31990))


def free_port() -> int:
    """A loopback port below 32000 that nobody listens on."""
    for port in itertools.islice(_ports, 4000):
        with socket.socket() as tcp:
            try:
                tcp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files of a CA, of the server and of a client."""

    ca: Path
    cert: Path
    key: Path
    client_cert: Path
    client_key: Path


@dataclass
class Member:
    """One etcd process."""

    name: str
    directory: Path
    options: Sequence[str] = ()
    certificates: Certificates | None = None
    client: int = field(default_factory=free_port)
    peer: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.client}"

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def start(self, members: Sequence[Member]) -> None:
        """Start it, or start it again with the data that it had; see `Servers.wait` for when it is ready."""
        self.directory.mkdir(parents=True, exist_ok=True)
        tls = self.certificates
        url, peer = f"{'https' if tls else 'http'}://{self.place}", f"http://127.0.0.1:{self.peer}"
        options = {
            "name": self.name,
            "data-dir": str(self.data),
            "listen-client-urls": url,
            "advertise-client-urls": url,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": ",".join(f"{each.name}=http://127.0.0.1:{each.peer}" for each in members),
            "initial-cluster-token": str(self.directory.parent),
            "logger": "zap",
            "log-level": "warn",
        }
        if tls:
            options |= {"cert-file": str(tls.cert), "key-file": str(tls.key), "trusted-ca-file": str(tls.ca)}
            options["client-cert-auth"] = "true"
        command = [program("etcd"), *(f"--{name}={value}" for name, value in options.items()), *self.options]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)

    def kill(self) -> None:
        """End it without warning."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process = None

    def freeze(self) -> None:
        """Stop it from running, its connections open."""
        assert self.process
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen one run on."""
        assert self.process
        self.process.send_signal(signal.SIGCONT)

    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")


@dataclass
class Servers:
    """One cluster. With `guarded`, root's password is ROOT_PASSWORD."""

    members: tuple[Member, ...]
    certificates: Certificates | None = None
    guarded: bool = False

    @property
    def url(self) -> str:
        """The store's URL, with every member."""
        return f"etcd://{','.join(member.place for member in self.members)}"

    def ctl(self, *words: str, member: int = 0, given: str | None = None) -> str:
        """What etcdctl prints, as root, with `given` as its input. Raises CalledProcessError."""
        options = [f"--endpoints={self.members[member].place}", "--command-timeout=8s"]
        if self.guarded:
            options.append(f"--user=root:{ROOT_PASSWORD}")
        if tls := self.certificates:
            options += [f"--cacert={tls.ca}", f"--cert={tls.client_cert}", f"--key={tls.client_key}"]
        environment = {**os.environ, "ETCDCTL_API": "3"}
        done = subprocess.run(
            [program("etcdctl"), *options, *words],
            env=environment,
            input=given,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def add_user(self, name: str, password: str, *roles: str) -> None:
        """A user of these roles."""
        self.ctl("user", "add", f"{name}:{password}")
        for role in roles:
            self.ctl("user", "grant-role", name, role)

    def add_role(self, name: str, kind: str, *trees: str) -> None:
        """A role that may `read`, `write` or `readwrite` what is below the trees."""
        self.ctl("role", "add", name)
        for tree in trees:
            self.grant(name, kind, tree)

    def grant(self, role: str, kind: str, tree: str) -> None:
        """One more right of a role."""
        self.ctl("role", "grant-permission", "--prefix", role, kind, tree)

    def start(self) -> None:
        """Start all members that do not run, and wait until they serve."""
        for member in self.members:
            if member.process is None:
                member.start(self.members)
        self.wait()

    def wait(self) -> None:
        """Until every member that runs answers a read that needs a leader."""
        for number, member in enumerate(self.members):
            deadline = time.monotonic() + PATIENCE
            while member.process and not self._serves(number):
                assert member.process.poll() is None, f"etcd ended: {member.log()}"
                assert time.monotonic() < deadline, f"etcd serves nothing: {member.log()}"
                time.sleep(0.05)

    def leader(self) -> int:
        """The number of the member that leads now."""
        for number, member in enumerate(self.members):
            if member.process and ", true, " in self.ctl("endpoint", "status", member=number):
                return number
        raise AssertionError("no leader")

    def kill(self) -> None:
        """End all members without warning."""
        for member in self.members:
            member.kill()

    def _serves(self, number: int) -> bool:
        try:
            self.ctl("get", "nothing", member=number)
        except subprocess.CalledProcessError:
            return False
        return True


@contextmanager
def servers(
    count: int = 1, *, guarded: bool = False, tls: bool = False, options: Sequence[str] = ()
) -> Iterator[Servers]:
    """Running servers; they and their data are gone afterwards. `options` go to each one's command line."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="etcd-", ignore_cleanup_errors=True)))
        certificates = certificates_in(directory) if tls else None
        members = tuple(
            Member(f"m{number}", directory / f"m{number}", options, certificates) for number in range(count)
        )
        made = Servers(members, certificates)
        stack.callback(made.kill)
        made.start()
        if guarded:
            made.add_user("root", ROOT_PASSWORD, "root")
            made.ctl("auth", "enable")
            made.guarded = True
        yield made


def certificates_in(directory: Path) -> Certificates:
    """A CA, a certificate of 127.0.0.1 and localhost, and one of a client."""
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "etcd CA")])
    ca = _builder(ca_name, ca_name, ca_key).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    made = Certificates(*(directory / f"{name}.pem" for name in ("ca", "cert", "key", "client-cert", "client-key")))
    made.ca.write_bytes(ca.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    for name, cert_file, key_file in (
        ("server", made.cert, made.key),
        ("client", made.client_cert, made.client_key),
    ):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        built = _builder(subject, ca_name, key).add_extension(x509.SubjectAlternativeName(names), critical=False)
        cert_file.write_bytes(built.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        key_file.touch(0o600)
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    return made


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
    )
