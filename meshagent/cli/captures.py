"""What is to be captured on this host, from what its agent and agent.yaml say."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from meshagent.cli.session import Session
from meshagent.config.agent import CaptureConfig
from meshagent.errors import UsageProblem
from meshagent.host.redirect import CapturedService, Redirection, Standing

Data = Mapping[str, Any]


async def wanted_here(session: Session) -> Redirection | None:
    """What this host's services need; None: nothing. Raises AgentUnreachable, UsageProblem."""
    agent = session.agent()
    rows, status = await agent.services(), await agent.status()
    return redirection_of(rows, own_users(status), session.configured().capture, os.environ.get("SSH_CONNECTION", ""))


def redirection_of(rows: Iterable[Data], own: Iterable[int], config: CaptureConfig, ssh: str) -> Redirection | None:
    """The redirection for these services (as the agent lists them), users of Envoy and agent, and `$SSH_CONNECTION`.

    None: no service is captured. Raises UsageProblem where somebody is who cannot be.
    """
    exempt = tuple(sorted({*own, *map(uid_of, config.exclude_users)}))
    services: dict[str, CapturedService] = {}
    for row in rows:
        if row.get("capture"):
            services[row["name"]] = _captured(row, services.get(row["name"]), exempt)
    if not services:
        return None
    words = ssh.split()
    return Redirection(
        services=tuple(services[name] for name in sorted(services)),
        exempt=exempt,
        egress=config.egress,
        ports=tuple(sorted(set(config.exclude_ports))),
        addresses=config.exclude_addresses,
        cgroups=config.exclude_cgroups,
        ssh_ports=(int(words[3]),) if len(words) == 4 and words[3].isdigit() else (),
    )


def uid_of(user: str | int) -> int:
    """The number of a user. Raises UsageProblem."""
    if isinstance(user, int) or user.isdigit():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise UsageProblem(f"this host has no user {user}", next_step="name one that it has, or a number") from None


def own_users(status: Data) -> frozenset[int]:
    """The users that the agent and its Envoy run as."""
    try:
        envoys = {Path(f"/proc/{status['envoy']['pid']}").stat().st_uid}
    except OSError:
        envoys = set()
    return frozenset({int(status["uid"]), *envoys})


def mismatch(wanted: Redirection | None, found: Standing) -> tuple[str, str]:
    """What is not as it should be about the rules in force, and the next step; empty where all is well."""
    if wanted is None:
        idle = "rules of a capture are in force, but no service here is captured"
        return (idle, "meshagent redirect down") if found.there else ("", "")
    names = ", ".join(each.service for each in wanted.services)
    left = found.undo_in is not None
    looked_at = (
        (not found.there, f"{names}: to be captured, but no rules are in force", "meshagent redirect up"),
        (not found.holds, "the undo timer ran out: the rules hold no longer", "meshagent redirect up, then confirm"),
        (
            found.digest != wanted.digest,
            "the rules are of other services or settings than now",
            "meshagent redirect up",
        ),
        (
            found.rules != wanted.rules,
            "somebody changed the rules since they were put in force",
            "meshagent redirect up",
        ),
        (left, f"the rules are undone in {found.undo_in} s", "meshagent redirect confirm"),
    )
    return next(((problem, step) for true, problem, step in looked_at if true), ("", ""))


def _captured(row: Data, sibling: CapturedService | None, exempt: Iterable[int]) -> CapturedService:
    capture = row["capture"]
    closed = (int(row["port"]),) if capture["closes"] else ()
    uid = None if capture["user"] is None else uid_of(capture["user"])
    if uid is not None and (uid == 0 or uid in exempt):
        who = "root" if uid == 0 else "a user who is left alone: Envoy's, the agent's or of capture.exclude_users"
        raise UsageProblem(
            f"{row['name']}: connections of {capture['user']} cannot be captured: this is {who}",
            next_step="run the service as a user of its own",
        )
    return CapturedService(
        service=row["name"],
        port=int(capture["port"]),
        uid=uid,
        cgroup=capture["cgroup"] or "",
        closed=tuple(sorted({*closed, *(sibling.closed if sibling else ())})),
    )
