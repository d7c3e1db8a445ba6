"""`meshagent explain` and `meshagent intention check`: the verdict on a call, what decides, and where it would go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import click

from meshagent.cli.applied import NO
from meshagent.cli.carriages import carriage_of
from meshagent.cli.externals import external_data, external_words
from meshagent.cli.mesh import Seen, now_utc
from meshagent.cli.options import SENT_HEADER, SERVICE, awaited, mesh_options, misuse
from meshagent.cli.output import Table, say, show, warn
from meshagent.cli.rulebook import tell_problems
from meshagent.cli.rules import Data, verdict_data, verdict_words
from meshagent.cli.session import Session
from meshagent.cli.settings_words import settings_data, settings_of, settings_words
from meshagent.cli.soundness import unknown_service
from meshagent.cli.standings import line_of, standings_of
from meshagent.cli.ways import Journey, failover_data, failover_words, journey, standing, way_data, way_words
from meshagent.cli.ways import called as called_of
from meshagent.model.names import ANY, HTTP_PROTOCOLS
from meshagent.model.route import Target
from meshagent.model.service import Instance
from meshagent.model.view import Outbound
from meshagent.model.world import Origin
from meshagent.policy import explain as verdicts
from meshagent.policy.carriage import sees_requests
from meshagent.policy.defaults import Setting
from meshagent.policy.request import Request
from meshagent.policy.resolve import judged_protocol, outbound_of
from meshagent.state.catalog import read_reports
from meshagent.state.records import ReportRecord


@click.command()
@click.argument("source", type=SERVICE)
@click.argument("destination", type=SERVICE)
@click.option("--method", metavar="METHOD", help="The request's method; GET unless told.")
@click.option("--path", metavar="PATH", help="The request's path; / unless told.")
@click.option("--header", multiple=True, type=SENT_HEADER, metavar="NAME=VALUE", help="A header of the request.")
@mesh_options("store", "config", "output")
@click.pass_obj
@awaited
async def check(
    session: Session,
    source: str,
    destination: str,
    method: str | None,
    path: str | None,
    header: tuple[tuple[str, str], ...],
) -> int:
    """Whether SOURCE may call DESTINATION: exit code 0 yes, 5 no.

    Where permissions decide by request and none is given, the answer is no: not every request is allowed. What is in
    shadow decides nothing: the answer says what it would refuse.

    \b
    Example:  meshagent intention check web payments --method POST --path /reports
    """
    answer = await _answer(session, source, destination, request_of(method, path, header))
    show(answer.data, session.form(), answer.words)
    return answer.exit_code


@click.command()
@click.argument("source", type=SERVICE, metavar="SOURCE|TICKET")
@click.argument("destination", type=SERVICE, required=False)
@click.argument("method", required=False)
@click.argument("path", required=False)
@click.option("--header", multiple=True, type=SENT_HEADER, metavar="NAME=VALUE", help="A header of the request.")
@click.option("--region", metavar="REGION", help="Where the caller's host stands; where its instances do unless told.")
@click.option("--zone", metavar="ZONE", help="The zone of the caller's host; that of its instances unless told.")
@click.option("--last", is_flag=True, help="The last call of the two that failed, as this host's access log has it.")
@mesh_options("store", "api", "config", "output")
@click.pass_obj
@awaited
async def explain(
    session: Session,
    source: str,
    destination: str | None,
    method: str | None,
    path: str | None,
    header: tuple[tuple[str, str], ...],
    region: str | None,
    zone: str | None,
    *,
    last: bool,
) -> int:
    """Why a call of SOURCE to DESTINATION is allowed or refused, which way it takes, and which instances it would reach.

    Each timeout, the retries, the access log and the tracing of the call are told with the document that says them.

    Where a route leads to several services, each of them has to allow it, with the path and headers that it gets to see.
    Exit code 0 allowed, 5 not.

    A TICKET is what a refused or failed call got in x-mesh-ticket. On the host that answered, it tells what was seen, the
    line of the policy that decided then, whether it would again, and what would allow that very call; --last does so for
    the last failure of the two.

    \b
    Example:  meshagent explain web payments GET /reports
              meshagent explain 1795285781540400-7
    """
    if destination is None or last:
        return await _seen(session, source, destination)
    answer = await _answer(session, source, destination, request_of(method, path, header), (region, zone))
    data = answer.whole
    table = Table(("INSTANCE", "HOST", "ADDRESS", "HEALTH", "CALLED"), [_cells(each) for each in data["instances"]])
    show(data, session.form(), answer.words, table, *settings_words(answer.settings))
    for doubt in answer.doubts:
        warn(doubt)
    return answer.exit_code


async def _seen(session: Session, source: str, destination: str | None) -> int:
    from meshagent.cli.tickets import TICKET, explain_last, explain_ticket

    if destination is not None:
        return await explain_last(session, source, destination)
    if not TICKET.fullmatch(source):
        raise misuse(f"{source} is no ticket: name the destination, too")
    return await explain_ticket(session, source)


@dataclass(frozen=True, slots=True)
class Answer:
    """The verdict on a call, the instances that it would reach, and what holds on the way there."""

    data: Data
    words: str
    instances: tuple[tuple[Instance, bool], ...]  # and whether it is called
    leads_on: str  # the services that the call would reach
    reports: tuple[ReportRecord, ...]  # of the hosts that decide
    settings: tuple[Setting, ...]

    @property
    def exit_code(self) -> int:
        """0 where the call is allowed, 5 where not."""
        return 0 if self.data["allowed"] else NO

    @property
    def whole(self) -> Data:
        """All of it as plain data."""
        called = [_instance(each, called) for each, called in self.instances]
        return {**self.data, "settings": settings_data(self.settings), "instances": called}

    @property
    def doubts(self) -> list[str]:
        """Why it may turn out otherwise: hosts that decide by older rules, or nobody there to call."""
        behind = [each for each in self.reports if each.revision < self.data["revision"]]
        found = [
            f"{each.host} has applied revision {each.revision} only: it may still decide by older rules"
            for each in behind
        ]
        if self.leads_on and not any(called for _, called in self.instances):
            found.append(f"no instance of {self.leads_on} is passing its checks: an allowed call would find nobody")
        return found


async def _answer(
    session: Session,
    source: str,
    destination: str,
    request: Request | None,
    told: tuple[str | None, str | None] = (None, None),  # the caller's region and zone
) -> Answer:
    async with session.mesh() as mesh:
        seen = await mesh.read()
        reports = await read_reports(mesh.store, mesh.keys)
    tell_problems({name: problem for name, problem in seen.problems.items() if name[1] in (destination, ANY, "mesh")})
    for name in dict.fromkeys((source, destination)):
        if words := unknown_service(name, seen.services):
            warn(words)
    if request is not None and judged_protocol(seen.world(), destination) not in HTTP_PROTOCOLS:
        say(f"{destination} is a tcp service: its proxy sees connections, not requests")
    return answer_of(seen, reports, source, destination, request, told)


def answer_of(
    seen: Seen,
    reports: Sequence[ReportRecord],
    source: str,
    destination: str,
    request: Request | None,
    told: tuple[str | None, str | None] = (None, None),
) -> Answer:
    """The answer for a call, as the mesh stands. `told`: the caller's region and zone; None: as its instances stand."""
    world = seen.world()
    protocol = judged_protocol(world, destination)
    outside = world.externals.get(destination)
    if protocol not in HTTP_PROTOCOLS:
        request = None
    region, zone = (
        known if given is None else given for given, known in zip(told, standing(world, source), strict=True)
    )
    outbound = outbound_of(world, source, destination, region, zone)
    way = journey(outbound, request)
    judge, arrives, verdict, doubt = _judged(seen, outbound, way, (Target(service=destination), request))
    default = _default_origin(seen)
    data = verdict_data(source, destination, request, verdict, default, doubt)
    data |= {"protocol": protocol, "revision": seen.revision, "route": way_data(way, destination), "judge": judge}
    data["failover"] = failover_data(way)
    lines = [verdict_words(data, verdict.rule, default), way_words(way, destination), failover_words(way)]
    carriage = carriage_of(world, outbound, seen.guard(judge, now_utc()))
    data |= {"data_path": carriage.data_path}
    lines += [carriage.words, external_words(outside)]
    data |= {"external": external_data(outside)}
    if (judge, arrives) != (destination, request):
        lines.append(f"  judged   by {judge}" + (f", as {arrives.method} {arrives.path}" if arrives else ""))
    reached = sorted({target.service or "" for target, _ in way.targets})
    rolled = [each for each in standings_of(seen.documents, seen.rolled, now_utc()) if each["service"] in reached]
    data, lines = data | {"rollouts": rolled}, [*lines, *(f"  {line_of(each)}" for each in rolled)]
    judges = {source} if outside else set(reached)
    deciding = tuple(report for report in reports if judges & set(report.services))
    words = "\n".join(filter(None, lines))
    if outside:
        return Answer(data, words, (), "", deciding, ())
    held = settings_of(seen, way, outbound)
    return Answer(data, words, called_of(way, world), ", ".join(reached), deciding, held)


def _judged(
    seen: Seen, outbound: Outbound, way: Journey, itself: tuple[Target, Request | None]
) -> tuple[str, Request | None, verdicts.Verdict, verdicts.Verdict | None]:
    """Who judges the call, as what, how, and how in shadow: the first target that refuses it, else the first of all.

    What is refused in shadow alone counts where nothing is refused.
    """
    judged = []
    for target, request in way.targets or (itself,):
        name = target.service or ""
        guard = seen.guard(name, now_utc())
        looked_at = request if sees_requests(seen.world(), outbound, guard) else None
        verdict = verdicts.explain(guard, outbound.source, looked_at)
        judged.append((name, request, verdict, verdicts.doubted(guard, outbound.source, looked_at)))
    doubtful = next((each for each in judged if each[3]), judged[0])
    return next((each for each in judged if not each[2].allowed), doubtful)


def request_of(method: str | None, path: str | None, headers: tuple[tuple[str, str], ...]) -> Request | None:
    """The request that a command asks about; None when the question is about the call as such."""
    if method is None and path is None and not headers:
        return None
    if method and method.startswith("/"):
        raise misuse(f"{method} is a path: write the method before it, such as GET {method}")
    return Request((method or "GET").upper(), path or "/", headers)


def _default_origin(seen: Seen) -> Origin:
    mesh = seen.documents.get(("mesh", "mesh"))
    return mesh.origin() if mesh else Origin()


def _instance(instance: Instance, called: bool) -> Data:
    return {
        "id": instance.id,
        "host": instance.host,
        "address": instance.address,
        "port": instance.port,
        "region": instance.region,
        "zone": instance.zone,
        "health": instance.health,
        "service": instance.service,
        "called": called,
    }


def _cells(instance: Data) -> list[object]:
    address = f"[{instance['address']}]" if ":" in instance["address"] else instance["address"]
    return [instance["id"], instance["host"], f"{address}:{instance['port']}", instance["health"], instance["called"]]
