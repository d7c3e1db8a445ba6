"""The `meshagent` command: its groups, and how every error that a person can meet is shown.

Data goes to stdout, words go to stderr. Exit codes: 0 yes or done, 1 failed, 2 usage, 3 invalid document, 4 store or
agent unreachable or refused, 5 the answer is no; 130 after Ctrl-C, 141 when the reader of stdout has gone.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

from meshagent import __version__
from meshagent.cli.lazy import Lazy, LazyGroup
from meshagent.cli.options import mesh_options
from meshagent.cli.output import ReaderGone, fail
from meshagent.errors import InvalidDocument, MeshError

INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
NO_READER = 141  # 128 + SIGPIPE

_COMMANDS = {
    "demo": Lazy("meshagent.cli.demo:demo", "The whole thing on this machine, in one command."),
    "init": Lazy("meshagent.cli.init:init", "Set up a new mesh in a store."),
    "join": Lazy("meshagent.cli.join:join", "Let this host into a mesh with a join line."),
    "token": Lazy("meshagent.cli.token:token", "Join lines for new hosts; deny a host that has joined."),
    "agent": Lazy("meshagent.cli.agent:agent", "Run this host's agent and its Envoy."),
    "up": Lazy("meshagent.cli.service:up", "Register services with this host's agent."),
    "down": Lazy("meshagent.cli.service:down", "Drain and deregister a service of this host."),
    "services": Lazy("meshagent.cli.service:services", "List the services of this host, or of the whole mesh."),
    "intention": Lazy(
        "meshagent.cli.intention:intention", "Who may call whom: allow, deny, delete, list, show, check."
    ),
    "policy": Lazy("meshagent.cli.policy:policy", "Policy documents: apply, validate, get, delete, sign."),
    "rollout": Lazy("meshagent.cli.rollout:rollout", "A new version in steps: start, status, pause, abort, promote."),
    "explain": Lazy("meshagent.cli.explain:explain", "Why a call is allowed or refused, and where it would go."),
    "status": Lazy("meshagent.cli.status:status", "The mesh and this host's agent at a glance."),
    "ui": Lazy("meshagent.ui.command:ui", "The mesh in a browser, on this machine."),
    "doctor": Lazy("meshagent.cli.doctor:doctor", "What is wrong, and the next step."),
    "dns": Lazy("meshagent.cli.dns:dns", "Names of services for applications: install, uninstall, show."),
    "top": Lazy("meshagent.cli.top:top", "Who calls whom now: rates, errors, latencies."),
    "graph": Lazy("meshagent.cli.graph:graph", "The mesh's calls as text, DOT, SVG or JSON."),
    "tap": Lazy("meshagent.cli.tap:tap", "Live requests of this host's services."),
    "proxy": Lazy("meshagent.cli.proxy:proxy", "This host's Envoy: status, config, stats, requests."),
    "metrics": Lazy("meshagent.cli.metrics:metrics", "Where Prometheus finds the hosts of the mesh."),
    "authority": Lazy(
        "meshagent.cli.authority:authority", "Run a signing authority: it lets hosts in and certifies them."
    ),
    "redirect": Lazy("meshagent.cli.redirect:redirect", "Transparent capture: up, confirm, show, down."),
    "systemd": Lazy("meshagent.cli.systemd:systemd", "Units for systemd: write them, remove them."),
    "ca": Lazy("meshagent.cli.ca:ca", "The mesh's CA: replace its root, or go over to another one."),
    "store": Lazy("meshagent.cli.store:store", "The mesh's store: copy it, or print who needs which rights in it."),
}


_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class Root(LazyGroup):
    """The root group: what goes wrong below becomes `error:` and `next:` on stderr and an exit code."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = "meshagent",
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run and end the process with the exit code (with `standalone_mode` off: return or raise as click does)."""

        def call() -> Any:
            return super(Root, self).main(args, prog_name, complete_var, standalone_mode=False, **extra)

        if not standalone_mode:
            return call()
        sys.exit(_guarded(call))


def _guarded(call: Callable[[], Any]) -> int:
    """Run a command and give its exit code; whatever it raises has been told."""
    try:
        code = call()
        sys.stdout.flush()
    except (MeshError, click.ClickException) as error:
        _tell(error)
        return error.exit_code
    except BaseExceptionGroup as group:  # what a daemon's loops raised, when all of it was expected
        known, unknown = group.split(MeshError)
        if known is None or unknown is not None:
            raise
        return max(_tell_all(known), default=1)
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except (ReaderGone, BrokenPipeError):
        _forget_stdout()
        return NO_READER
    return code if isinstance(code, int) else 0


def _tell_all(group: BaseExceptionGroup[MeshError]) -> Iterator[int]:
    """Tell every error in the group, and give their exit codes."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _tell_all(error)
        else:
            _tell(error)
            yield error.exit_code


def _tell(error: MeshError | click.ClickException) -> None:
    if isinstance(error, InvalidDocument):
        for problem in error.problems:
            fail(str(problem))
        fail("", error.next_step)
    elif isinstance(error, MeshError):
        fail(error.message, error.next_step)
    else:
        place = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else ""
        fail(error.format_message(), f"{place} --help" if place else "")


def _forget_stdout() -> None:
    """Give what is still buffered to nobody, so that the interpreter does not try to write it at exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return


@click.group("meshagent", cls=Root, lazy=_COMMANDS, context_settings=_CONTEXT)
@click.version_option(__version__, prog_name="meshagent", message="%(prog)s %(version)s")
@mesh_options("store", "api", "config", "output")
def cli() -> None:
    """A service mesh for machines without Kubernetes.

    \b
    Example:  meshagent intention allow web payments
    """


def main() -> None:
    """The console script."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A letter that the locale lacks is no reason to end in a traceback.
        sys.stdout.reconfigure(errors="backslashreplace")
    cli.main()
