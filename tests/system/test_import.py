"""Istio's own authorization policies: what we make of them, beside the filter that Istio made of them, in the real Envoy."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from meshagent.envoy.locate import locate
from tests.system.envoy_host import free_port
from tests.unit.importing.verdicts import NOW, Call, imported, ours

GOLDEN = Path(__file__).parents[3] / "shared/corpus/istio/pilot/pkg/security/authz/builder/testdata/http"
SAME = (
    "allow-empty-rule",
    "allow-nil-rule",
    "allow-path",
    "deny-empty-rule",
    "dry-run-mix",
    "simple-policy-principal-with-wildcard",
)
NARROWER = ("allow-full-rule", "trust-domains")
PATHS = ["/", "/exact", "/exact/", "/prefix", "/prefix/x", "/prefixed", "/x/suffix", "/another", "/allow", "/path/template/x",
         "/path/template/x/y", "/a/b/path/template", "/not-exact", "/x?q=/exact"]  # fmt: skip
CALLS = [Call(who, method, path) for who in ("my-sa", "web") for method in ("GET", "POST") for path in PATHS]
CALLS += [Call("my-sa", "GET", "/", (("x-header", "header"),))]


@pytest.mark.parametrize("name", SAME + NARROWER)
async def test_the_verdicts_are_those_of_istios_filter(name, filters):
    objects = [each for each in yaml.safe_load_all((GOLDEN / f"{name}-in.yaml").read_text()) if each]
    documents = imported(objects)
    theirs = {call: await filters(name, call) for call in CALLS}
    mine = {call: ours(documents, "httpbin", call) for call in CALLS}
    assert set(theirs.values()) <= {200, 403}
    wider = [call for call in CALLS if mine[call] and theirs[call] != 200]
    assert wider == []
    if name in SAME:
        assert mine == {call: status == 200 for call, status in theirs.items()}
    else:
        assert documents.notes  # what could not be said is told


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A CA, and a leaf of each caller and of the server, as PEM files."""
    directory, keys = tmp_path_factory.mktemp("certificates"), {}
    for who in ("ca", "server", "my-sa", "web"):
        key = keys[who] = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, who)])
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")])
        builder = (
            x509.CertificateBuilder(issuer, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(NOW.replace(year=2020))
            .not_valid_after(NOW.replace(year=2040))
            .add_extension(x509.BasicConstraints(ca=who == "ca", path_length=None), critical=True)
        )
        if who != "ca":
            uri = f"spiffe://cluster.local/ns/{'my-ns' if who == 'my-sa' else 'foo'}/sa/{who}"
            builder = builder.add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False
            )
        pem = builder.sign(keys["ca"], hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (directory / f"{who}.pem").write_bytes(pem)
        (directory / f"{who}.key").write_bytes(key.private_bytes(*form))
    return directory


@pytest.fixture(scope="module")
def filters(certificates, tmp_path_factory):
    """An Envoy with a listener for each golden filter; asks one of them and says the status."""
    directory = tmp_path_factory.mktemp("envoy")
    ports = {name: free_port() for name in SAME + NARROWER}
    listeners = [_listener(name, port, certificates) for name, port in ports.items()]
    bootstrap = directory / "envoy.json"
    bootstrap.write_text(json.dumps({"static_resources": {"listeners": listeners}}))
    command = [locate(), "-c", bootstrap, "--use-dynamic-base-id", "--concurrency", "1", "-l", "error"]
    with (directory / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as envoy:

        async def ask(name, call):
            return await _status(ports[name], certificates, call, lambda: envoy.poll() is None)

        try:
            yield ask
        finally:
            envoy.terminate()


async def _status(port, certificates, call, lives):
    context = ssl.create_default_context(cafile=certificates / "ca.pem")
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(certificates / f"{call.caller}.pem", certificates / f"{call.caller}.key")
    limit = time.monotonic() + 20
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            break
        except OSError:
            assert lives() and time.monotonic() < limit
            await asyncio.sleep(0.05)
    headers = "".join(f"{name}: {value}\r\n" for name, value in call.headers)
    writer.write(f"{call.method} {call.path} HTTP/1.1\r\nhost: httpbin\r\ncontent-length: 0\r\n{headers}\r\n".encode())
    line = await reader.readline()
    writer.transport.abort()
    return int(line.split()[1])


_T = "type.googleapis.com/envoy.extensions"


def _listener(name, port, certificates):
    golden = [each for each in yaml.safe_load_all((GOLDEN / f"{name}-out.yaml").read_text()) if each]
    router = {"name": "router", "typed_config": {"@type": f"{_T}.filters.http.router.v3.Router"}}
    route = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
    manager = {
        "@type": f"{_T}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "normalize_path": True,
        "http_filters": [*golden, router],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    }
    pair = {
        "certificate_chain": {"filename": f"{certificates}/server.pem"},
        "private_key": {"filename": f"{certificates}/server.key"},
    }
    tls = {
        "@type": f"{_T}.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": {
            "tls_certificates": [pair],
            "validation_context": {"trusted_ca": {"filename": f"{certificates}/ca.pem"}},
        },
    }
    chain = {
        "filters": [{"name": "http", "typed_config": manager}],
        "transport_socket": {"name": "tls", "typed_config": tls},
    }
    return {
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [chain],
    }
