"""nft and ip as programs: put rules in force, look at them, take them away. Needs CAP_NET_ADMIN."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from meshagent.errors import CaptureFailed
from meshagent.host.redirect import CONFIRM, REMOVE, TABLE, Standing, standing_of
from meshagent.model.virtual import VIRTUAL_NETWORKS

_SECONDS = 20
_PLACES = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"  # a user's PATH often lacks the first three
_NOBODY_THERE = "No such file or directory"
_NOT_ALLOWED = "Operation not permitted"
_IPV4, _IPV6 = VIRTUAL_NETWORKS
_TABLE_ABSENT = Standing()


def apply(rules: str) -> None:
    """Put the rules in force in one transaction, once nft has checked them, and make virtual addresses callable.

    Raises CaptureFailed; then everything is as it was, or, where the routes could not be set, there are no rules.
    """
    _nft("--check", "-f", "-", given=rules)
    _nft("-f", "-", given=rules)
    try:
        # To the loopback device, not `local`: that would take in what others send to these addresses. Needed where there
        # is no default route; and the source is then an address that stays on this host.
        _ip("-4", "route", "replace", str(_IPV4), "dev", "lo", "src", "127.0.0.1")
        if _has_ipv6():
            _ip("-6", "route", "replace", str(_IPV6), "dev", "lo")
    except CaptureFailed:
        remove()
        raise


def confirm() -> None:
    """Stop the timer. Raises CaptureFailed where none runs, or it has run out."""
    found = standing()
    if not found.there:
        raise CaptureFailed("nothing is captured on this host", next_step="meshagent redirect up")
    if not found.holds:
        raise CaptureFailed("the timer ran out: the rules hold no longer", next_step="meshagent redirect up")
    _nft("-f", "-", given=CONFIRM)


def remove() -> None:
    """Take everything away: rules in one transaction, then the routes. Raises CaptureFailed."""
    _nft("-f", "-", given=REMOVE)
    for family, network in (("-4", _IPV4), ("-6", _IPV6)):
        if _run("ip", family, "route", "show", str(network), "dev", "lo").stdout.strip():
            _ip(family, "route", "del", str(network), "dev", "lo")


def standing() -> Standing:
    """What is in force. Raises CaptureFailed where that cannot be known."""
    done = _run("nft", "--json", "list", "table", *TABLE.split())
    if done.returncode and _NOBODY_THERE in done.stderr:
        return _TABLE_ABSENT
    _require(done)
    return standing_of(json.loads(done.stdout))


def listing() -> str:
    """The rules as nft shows them; empty where there are none. Raises CaptureFailed."""
    return _nft("list", "table", *TABLE.split()) if standing().there else ""


def _nft(*words: str, given: str = "") -> str:
    return _require(_run("nft", *words, given=given))


def _ip(*words: str) -> None:
    _require(_run("ip", *words))


def _run(program: str, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:{_PLACES}")
    if path is None:
        package = "nftables" if program == "nft" else "iproute2"
        raise CaptureFailed(f"{program} is not on this host", next_step=f"install {package}")
    environment = {"PATH": _PLACES, "LC_ALL": "C.UTF-8"}
    try:
        return subprocess.run(
            [path, *words], input=given, capture_output=True, text=True, timeout=_SECONDS, check=False, env=environment
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CaptureFailed(f"{program}: {error}", next_step="try again") from None


def _require(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode == 0:
        return done.stdout
    said = done.stderr.strip().splitlines()
    problem = said[0] if said else f"exit code {done.returncode}"
    if _NOT_ALLOWED in done.stderr:
        raise CaptureFailed("only root may capture connections", next_step="sudo meshagent redirect ...")
    raise CaptureFailed(
        f"{Path(done.args[0]).name} refuses: {problem}",
        next_step="needs nftables 1.0 and a kernel with NFT_REDIR, NFT_FIB_INET and NFT_REJECT_INET: see docs/capture.md",
    )


def _has_ipv6() -> bool:
    try:
        return any(line.endswith(" lo") for line in Path("/proc/net/if_inet6").read_text().splitlines())
    except OSError:
        return False
