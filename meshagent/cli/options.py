"""Options and argument types that several commands share. Each may stand before or after the command's name."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click

from meshagent.cli.output import FORMS
from meshagent.cli.session import Session

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Function = TypeVar("Function", bound=Callable[..., Any])

_LONGEST_REASON = 512  # as the documents have it

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # not generic in every click 8


class Checked(_ParamType):
    """Text that a function turns into a value, or refuses with a ValueError that says what it must be."""

    def __init__(self, name: str, convert: Callable[[str], Any]) -> None:
        self.name = name
        self._convert = convert

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value; a usage error names the parameter and what was given."""
        if not isinstance(value, str):
            return value
        try:
            return self._convert(value)
        except ValueError as error:
            self.fail(f"{value!r} {error}", param, ctx)


def _service(text: str) -> str:
    from meshagent.model.names import check_service_name

    return check_service_name(text)


def _service_or_beginning(text: str) -> str:
    _service(text.removesuffix("-*"))
    return text


def _service_or_any(text: str) -> str:
    from meshagent.model.names import check_service_or_any

    return check_service_or_any(text)


def _duration(text: str) -> timedelta:
    from meshagent.model.names import parse_duration

    duration = parse_duration(text)
    if not duration:
        raise ValueError("must be longer than nothing")
    return duration


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("must be a time such as 2027-01-31T18:00:00Z") from None
    if moment.tzinfo is None:
        raise ValueError("must name its time zone: put a Z (UTC) or +02:00 at its end")
    return moment


def _header(text: str) -> tuple[str, str | None]:
    name, separator, value = text.partition("=")
    if not name:
        raise ValueError("must be NAME=VALUE, or NAME for any value")
    return name.strip().lower(), value if separator else None


def _sent_header(text: str) -> tuple[str, str]:
    name, value = _header(text)
    if value is None:
        raise ValueError("must be NAME=VALUE")
    return name, value


def _reason(text: str) -> str:
    if len(text) > _LONGEST_REASON:
        raise ValueError(f"is longer than {_LONGEST_REASON} characters")
    return text


SERVICE = Checked("service", _service)
SERVICE_OR_BEGINNING = Checked("service", _service_or_beginning)
SERVICE_OR_ANY = Checked("service", _service_or_any)
DURATION = Checked("duration", _duration)
MOMENT = Checked("time", _moment)
HEADER = Checked("header", _header)
SENT_HEADER = Checked("header", _sent_header)
REASON = Checked("reason", _reason)

_SHARED: dict[str, dict[str, Any]] = {
    "store": {
        "metavar": "URL",
        "help": "Where the mesh is kept, such as sqlite:///var/lib/meshagent/mesh.db.  [env: MESHAGENT_STORE]",
    },
    "store_token_file": {
        "type": click.Path(dir_okay=False, path_type=Path),
        "metavar": "FILE",
        "help": "File (0600) with the store's token to use here, in place of the configured one.",
    },
    "api": {"metavar": "SOCKET", "help": "The socket of this host's agent.  [env: MESHAGENT_API]"},
    "config": {
        "type": click.Path(dir_okay=False, path_type=Path),
        "metavar": "FILE",
        "help": "The agent's configuration.  [env: MESHAGENT_CONFIG]",
    },
    "output": {"type": click.Choice(FORMS), "help": "How data is printed; a table unless told."},
    "timeout": {"type": DURATION, "metavar": "DURATION", "help": "How long to wait, such as 500ms or 10s."},
}
_FLAGS = {"output": ("-o", "--output"), "store_token_file": ("--store-token-file",)}


def misuse(words: str) -> click.UsageError:
    """A usage error of the command that runs."""
    return click.UsageError(words, click.get_current_context(silent=True))


def mesh_options(*names: str) -> Callable[[Function], Function]:
    """Options that are kept in the session: store, api, config, output, wait and timeout."""

    def decorate(function: Function) -> Function:
        for name in reversed(names):
            function = _option(name)(function)
        return function

    return decorate


def awaited(function: Callable[Parameters, Coroutine[Any, Any, Result]]) -> Callable[Parameters, Result]:
    """A command that is a coroutine. What it returns is the exit code (None: 0)."""

    @wraps(function)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        import asyncio

        return asyncio.run(function(*args, **kwargs))

    return run


def _option(name: str) -> Callable[[Function], Function]:
    if name == "wait":
        help_text = "Wait until every proxy concerned has applied the change; on a terminal unless told."
        return click.option("--wait/--no-wait", default=None, expose_value=False, callback=_keep, help=help_text)
    flags = _FLAGS.get(name, (f"--{name}",))
    return click.option(*flags, expose_value=False, callback=_keep, **_SHARED[name])


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Keep what was given; the option that stands nearer to the command wins."""
    session = ctx.ensure_object(Session)
    if value is not None and param.name is not None:
        setattr(session, param.name, value)
