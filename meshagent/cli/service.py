"""`meshagent up`, `down` and `services`: what runs on this host, and the catalog of the whole mesh."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import click

from meshagent.api.client import AgentClient
from meshagent.cli.definition import definition_of, meta_of, upstream_of
from meshagent.cli.lazy import LazyGroup
from meshagent.cli.options import SERVICE, Checked, awaited, mesh_options, misuse
from meshagent.cli.output import Table, say, show
from meshagent.cli.session import Session
from meshagent.errors import MeshError
from meshagent.model.names import Protocol
from meshagent.model.service import Instance, ServiceDefinition

Data = dict[str, Any]
UPSTREAM = Checked("upstream", upstream_of)
META = Checked("meta", meta_of)


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...|NAME", type=click.Path())
@click.option("--port", type=click.IntRange(1, 65535), help="Where the service NAME listens: then no file is needed.")
@click.option("--protocol", type=click.Choice(get_args(Protocol)), help="What it speaks; tcp unless told.")
@click.option(
    "--upstream",
    "upstreams",
    multiple=True,
    type=UPSTREAM,
    metavar="SERVICE:LOCALPORT",
    help="A service that it calls, and on which loopback port. Repeatable.",
)
@click.option("--address", metavar="ADDRESS", help="Where it listens; 127.0.0.1 unless told.")
@click.option("--meta", multiple=True, type=META, metavar="KEY=VALUE", help="What callers may choose by. Repeatable.")
@click.option("--id", "instance", type=SERVICE, metavar="ID", help="Which instance, where several run here.")
@mesh_options("api", "config", "output", "timeout")
@click.pass_obj
@awaited
async def up(
    session: Session,
    files: tuple[str, ...],
    port: int | None,
    protocol: str | None,
    upstreams: tuple[tuple[str, int], ...],
    address: str | None,
    meta: tuple[tuple[str, str], ...],
    instance: str | None,
) -> None:
    """Register the services defined in FILE (- is stdin), or the one NAME at --port, with this host's agent.

    Returns when each is in service, and says where it reaches its upstreams. A service stays registered over restarts
    of the agent, until `meshagent down`; one that is registered already is changed.

    \b
    Example:  meshagent up web.yaml payments.yaml
    Example:  meshagent up web --port 8080 --protocol http --upstream payments:9191
    """
    told = {"protocol": protocol, "address": address, "id": instance}
    definitions = _definitions(files, port, told, upstreams, meta)
    agent = session.agent()
    rows: list[Data] = []
    for definition in definitions:
        rows.append(await _up(agent, definition, session.seconds, rows))
    if len(rows) > 1:  # what came later may be an upstream of what came first
        now = {(row["name"], row["id"]): row for row in await agent.services()}
        rows = [now.get((row["name"], row["id"]), row) for row in rows]
    show(rows, session.form(), *(line for row in rows for line in _lines(row)))


def _definitions(
    files: tuple[str, ...],
    port: int | None,
    told: Mapping[str, str | None],
    upstreams: tuple[tuple[str, int], ...],
    meta: tuple[tuple[str, str], ...],
) -> tuple[ServiceDefinition, ...]:
    """Those of the files, or with a port the one that the options say."""
    if port is None:
        if upstreams or meta or any(told.values()):
            raise misuse("a service is described by a file, or by its NAME and --port with the other options")
        from meshagent.cli.reading import read_definitions

        return read_definitions(files)
    if len(files) != 1:
        raise misuse("--port is of one service: give its NAME alone")
    name = SERVICE.convert(files[0], None, click.get_current_context(silent=True))
    return (definition_of(name, {"port": port, **told}, upstreams, meta),)


@click.command()
@click.argument("name", type=SERVICE)
@click.option("--id", "instance", type=SERVICE, metavar="ID", help="Which instance, where several run here.")
@mesh_options("api", "config", "output")
@click.pass_obj
@awaited
async def down(session: Session, name: str, instance: str | None) -> None:
    """Take the service NAME of this host out of the mesh: callers turn away first, then what is under way ends.

    \b
    Example:  meshagent down web
    """
    row = await session.agent().down(name, instance)
    show(row, session.form(), f"{_who(row)}: down, drained in {row['drained_ms']} ms")


@click.group(cls=LazyGroup, invoke_without_command=True)
@click.option("--all", "everywhere", is_flag=True, help="Every instance of the mesh, from the store.")
@mesh_options("store", "api", "config", "output")
@click.pass_context
def services(ctx: click.Context, *, everywhere: bool) -> None:
    """List the services of this host, or with --all those of the whole mesh.

    \b
    Example:  meshagent services --all
    """
    session = ctx.find_object(Session)
    if ctx.invoked_subcommand is None and session is not None:
        (_list_all if everywhere else _list_here)(session)


@services.command()
@click.argument("name", type=SERVICE)
@click.argument("verdict", type=click.Choice(["pass", "fail"]))
@click.option("--id", "instance", type=SERVICE, metavar="ID", help="Which instance, where several run here.")
@click.option("--note", default="", metavar="TEXT", help="What the check says of it.")
@mesh_options("api", "config", "output")
@click.pass_obj
@awaited
async def ttl(session: Session, name: str, verdict: str, instance: str | None, note: str) -> None:
    """Tell the ttl check of NAME that the service passes or fails.

    \b
    Example:  meshagent services ttl batch pass --note "queue is empty"
    """
    status = {"pass": "passing", "fail": "failing"}[verdict]
    row = await session.agent().feed_ttl(name, status, note, instance)
    show({**row, "status": status}, session.form(), f"{_who(row)}: {status}")


@awaited
async def _list_here(session: Session) -> None:
    rows = await session.agent().services()
    if not rows:
        say("no service runs on this host: register one with `meshagent up FILE`")
    titles = ("NAME", "ID", "ADDRESS", "PROTOCOL", "MTLS PORT", "HEALTH", "UPSTREAMS", "FROM")
    show(rows, session.form(), Table(titles, [_here_cells(row) for row in rows]))


@awaited
async def _list_all(session: Session) -> None:
    async with session.mesh() as mesh:
        instances = await mesh.instances()
    if not instances:
        say("no service is registered in the mesh")
    titles = ("NAME", "HOST", "ID", "ADDRESS", "PROTOCOL", "HEALTH", "META", "ZONE")
    rows = [instance.model_dump(mode="json") for instance in instances]
    show(rows, session.form(), Table(titles, [_catalog_cells(instance) for instance in instances]))


async def _up(agent: AgentClient, definition: ServiceDefinition, seconds: float, done: list[Data]) -> Data:
    """Register one; where it fails, say what was registered before it."""
    try:
        return await agent.up(definition, seconds)
    except MeshError:
        for row in done:
            say(f"{_who(row)}: up")
        say(f"{definition.instance_id}: failed" + (", the rest was not tried" if done else ""))
        raise


def _lines(row: Data) -> list[str]:
    port = f"mTLS on port {row['mtls_port']}"
    lines = [f"{_who(row)}: up, {row['protocol']} on {_place(row['address'], row['port'])}, {port}, {row['health']}"]
    for upstream in row["upstreams"]:
        port = f"127.0.0.1:{upstream['local_port']}" if upstream["local_port"] else "its virtual addresses"
        where = upstream["local_socket"] or port
        healthy, total = upstream["healthy"], upstream["endpoints"]
        found = f"{healthy} of {total} healthy" if total else "no instance yet"
        if outside := upstream.get("outside"):  # an older agent says nothing of it
            found = f"outside the mesh: {', '.join(outside)}"
        lines.append(f"  {upstream['service']} is at {where} ({upstream['protocol']}, {found})")
    return lines


def _who(row: Data) -> str:
    return str(row["name"]) if row["id"] == row["name"] else f"{row['name']} ({row['id']})"


def _here_cells(row: Data) -> list[object]:
    upstreams = [_called(each) for each in row["upstreams"]]
    address = _place(row["address"], row["port"])
    return [row["name"], row["id"], address, row["protocol"], row["mtls_port"], _health(row), upstreams, row["source"]]


def _called(upstream: Data) -> str:
    where = upstream["local_socket"] or upstream["local_port"]
    return f"{upstream['service']}@{where}" if where else str(upstream["service"])


def _health(row: Data) -> str:
    failing = [f"{check['kind']} {check['output']}".strip() for check in row["checks"] if check["status"] == "failing"]
    return f"{row['health']}: {'; '.join(failing)}" if failing else str(row["health"])


def _catalog_cells(instance: Instance) -> list[object]:
    address = _place(instance.address, instance.port)
    meta, zone = instance.meta, "/".join(part for part in (instance.region, instance.zone) if part)
    return [instance.service, instance.host, instance.id, address, instance.protocol, instance.health, meta, zone]


def _place(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
