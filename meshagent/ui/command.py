"""`meshagent ui`: the mesh in a browser, while the command runs."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import socket

import click

from meshagent.cli.mesh import now_utc
from meshagent.cli.options import awaited, mesh_options
from meshagent.cli.output import emit, say
from meshagent.cli.session import Session
from meshagent.errors import PortInUse


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="The port on 127.0.0.1; a free one unless told.")
@click.option("--open", "browse", is_flag=True, help="Open the link in this machine's browser.")
@click.option("--prometheus", metavar="URL", help="Take live numbers from this Prometheus, not from the agents.")
@mesh_options("store", "api", "config")
@click.pass_obj
@awaited
async def ui(session: Session, port: int, browse: bool, prometheus: str | None) -> None:
    """The mesh in a browser: topology, intentions, services, hosts, certificates, history, refusals.

    Serves on 127.0.0.1 until Ctrl-C, for who has the printed link, which is good once. Looks, and never changes anything.

    \b
    Example:  meshagent ui --port 8500
    """
    from meshagent.cli.logs import quiet_log

    quiet_log()
    opened = _listening(port)
    try:
        await _serve(session, opened, browse, prometheus)
    finally:
        opened.close()


async def _serve(session: Session, opened: socket.socket, browse: bool, prometheus: str | None) -> None:
    from aiohttp import web

    from meshagent.ui.entry import Door
    from meshagent.ui.live import Live
    from meshagent.ui.pages import Pages
    from meshagent.ui.prometheus import Prometheus
    from meshagent.ui.serving import application
    from meshagent.ui.sight import Sight

    door = Door(lambda: secrets.token_urlsafe(32))
    place = f"http://127.0.0.1:{opened.getsockname()[1]}/#enter="
    sight = Sight(session)
    live = Prometheus(prometheus) if prometheus else Live(sight.traffic)
    app = application(
        door,
        Pages(sight, live, now_utc),
        lambda: say(f"opened; for another browser: {place}{door.token}"),
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.SockSite(runner, opened).start()
        emit(place + door.token)
        say("this link is good once; Ctrl-C ends it")
        if browse:
            click.launch(place + door.token)
        await _told_to_end()
    finally:
        await runner.cleanup()
        await sight.close()


def _listening(port: int) -> socket.socket:
    """Raises PortInUse."""
    try:
        opened = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise PortInUse(f"127.0.0.1:{port}: {error.strerror}", next_step="name another with --port, or none") from None
    opened.setblocking(False)
    return opened


async def _told_to_end() -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    try:
        await ended.wait()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError):
                loop.remove_signal_handler(number)
