"""The resolver that this host asks, and the one file that leads it to the agent for the mesh's names, and for no other.

systemd-resolved asks servers with nothing but route-only domains (`~mesh`) for those alone: resolved.conf(5), and
`dns_server_limited_domains` in its source. But it knows one list of global servers and one of global domains, so where
others are set globally, ours would take their place. dnsmasq knows servers by domain.
"""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from meshagent.errors import NotFound, UsageProblem

Resolver = Literal["resolved", "dnsmasq"]
RESOLVERS: tuple[Resolver, ...] = ("resolved", "dnsmasq")
FILES: dict[Resolver, Path] = {
    "resolved": Path("etc/systemd/resolved.conf.d/meshagent.conf"),
    "dnsmasq": Path("etc/dnsmasq.d/meshagent.conf"),
}
RESTARTS: dict[Resolver, tuple[str, ...]] = {
    "resolved": ("systemctl", "try-restart", "systemd-resolved.service"),  # it takes servers in at a start only
    "dnsmasq": ("systemctl", "try-restart", "dnsmasq.service"),  # SIGHUP does not read them either: dnsmasq(8)
}
_MARK = "# Written by `meshagent dns install`; `meshagent dns uninstall` removes it."
_RUNS: dict[Resolver, tuple[str, ...]] = {
    "resolved": ("run/systemd/resolve/io.systemd.Resolve", "run/systemd/resolve/resolv.conf"),
    "dnsmasq": ("run/dnsmasq/dnsmasq.pid", "run/dnsmasq.pid"),
}
_SECONDS = 30
_LOOKUP_SECONDS = 5
Run = Callable[[Sequence[str]], str]


def text_for(resolver: Resolver, address: str, zones: Sequence[str]) -> str:
    """What the file says. `address` as in agent.yaml, `zones` with the mesh's own first."""
    if resolver == "resolved":
        lines = ["[Resolve]", f"DNS={address}", f"Domains={' '.join(f'~{zone}' for zone in zones)}"]
    else:
        host, _, port = address.rpartition(":")
        lines = [f"server=/{zone}/{host.strip('[]')}#{port}" for zone in zones]
        lines.append(f"rebind-domain-ok=/{zones[0]}/")  # stop-dns-rebind would drop addresses of a private network
    return "\n".join((_MARK, *lines, ""))


def running(root: Path) -> Resolver | None:
    """The resolver that runs below `root`; where both do, the one that resolv.conf names. None: neither."""
    found = [each for each in RESOLVERS if any((root / path).exists() for path in _RUNS[each])]
    if len(found) == 2 and "127.0.0.53" not in _read(root / "etc/resolv.conf"):
        return "dnsmasq"
    return found[0] if found else None


def written(root: Path) -> dict[Resolver, str]:
    """The files of ours that are there, and what they say."""
    found = {each: _read(root / FILES[each]) for each in RESOLVERS}
    return {each: text for each, text in found.items() if text.startswith(_MARK)}


def write(root: Path, resolver: Resolver, text: str) -> Path:
    """Put the file there, whole or not at all. Raises UsageProblem where another's file is, or nobody may write."""
    path = root / FILES[resolver]
    _refuse_strangers(path)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        number, draft = tempfile.mkstemp(dir=path.parent, prefix=".meshagent-")  # dnsmasq(8): such names are not read
        try:
            with os.fdopen(number, "w", encoding="utf-8") as file:
                file.write(text)
                os.fchmod(file.fileno(), 0o644)
            Path(draft).replace(path)
        finally:
            with suppress(FileNotFoundError):
                Path(draft).unlink()
    except OSError as error:
        raise UsageProblem(f"{path} cannot be written: {error.strerror}", next_step="run it as root") from None
    return path


def remove(root: Path) -> list[tuple[Resolver, Path]]:
    """Remove the files of ours. Returns them. Raises UsageProblem where nobody may."""
    gone = []
    for resolver in written(root):
        path = root / FILES[resolver]
        try:
            path.unlink()
        except OSError as error:
            raise UsageProblem(f"{path} cannot be removed: {error.strerror}", next_step="run it as root") from None
        gone.append((resolver, path))
    return gone


def refuse_other_servers(run: Run, address: str, zones: Sequence[str]) -> None:
    """Raises UsageProblem where our file would keep systemd-resolved from answering names that it answers now."""
    servers, domains = _by_scope(run(("resolvectl", "dns"))), _by_scope(run(("resolvectl", "domain")))
    of_links = {each for scope, found in servers.items() if scope != "Global" for each in found}
    others = [each for each in servers.get("Global", ()) if each != address and each not in of_links]  # it repeats them
    if others:
        raise UsageProblem(
            f"systemd-resolved has other global servers, which ours would take the place of: {' '.join(others)}",
            next_step="set them for a link (systemd-networkd, NetworkManager), or install with --resolver dnsmasq",
        )
    ours = {f"~{zone}" for zone in zones}
    strange = [each for each in domains.get("Global", ()) if each not in ours]
    if strange:
        raise UsageProblem(
            f"systemd-resolved has global domains, for which ours would be asked: {' '.join(strange)}",
            next_step="set them for a link (systemd-networkd, NetworkManager), or install with --resolver dnsmasq",
        )
    if not of_links:
        raise UsageProblem(
            "no link has a DNS server, so systemd-resolved would know nobody to ask for other names",
            next_step="set one for a link (systemd-networkd, NetworkManager)",
        )


def looked_up(name: str) -> frozenset[str]:
    """The addresses that applications of this host find under a name; none when there are none, or no answer in time."""
    try:  # in a process of its own, since a lookup cannot be ended
        done = subprocess.run(
            ["getent", "ahosts", name],  # noqa: S607 - the libc's own
            capture_output=True,
            text=True,
            timeout=_LOOKUP_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return frozenset()
    return frozenset(line.split()[0] for line in done.stdout.splitlines() if line.strip())


def run_command(words: Sequence[str]) -> str:
    """What a command says. Raises NotFound with what went wrong."""
    try:
        done = subprocess.run(list(words), capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotFound(f"{' '.join(words)}: {error}", next_step="is the resolver of this host another one?") from None
    if done.returncode:
        raise NotFound(f"{' '.join(words)}: {done.stderr.strip()}", next_step=f"systemctl status {words[-1]}")
    return done.stdout


def _by_scope(said: str) -> dict[str, list[str]]:
    """`Global: a b` and `Link 2 (eth0): c`, as resolvectl says them. Lists go on in further, indented lines."""
    found: dict[str, list[str]] = {}
    scope = ""
    for line in said.splitlines():
        head, parted, rest = line.partition(": ") if not line.startswith(" ") else ("", "", line)
        if not parted and line.endswith(":") and not line.startswith(" "):
            head, parted, rest = line[:-1], ":", ""
        scope = head.strip() if parted else scope
        found.setdefault(scope, []).extend(rest.split())
    return found


def _refuse_strangers(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageProblem(f"{path} cannot be looked at: {error.strerror}", next_step="run it as root") from None
    if not stat.S_ISREG(mode) or not _read(path).startswith(_MARK):
        raise UsageProblem(
            f"{path} is there, and not from this command", next_step="move it away, or put what it says elsewhere"
        )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
