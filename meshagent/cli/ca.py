"""`meshagent ca`: the mesh's CA."""

from __future__ import annotations

import click

from meshagent.cli.lazy import Lazy, LazyGroup

_COMMANDS = {
    "status": Lazy("meshagent.cli.ca_status:status", "The trusted roots and the signing authorities."),
    "roots": Lazy("meshagent.cli.ca_status:roots", "The trusted roots as PEM."),
    "root": Lazy("meshagent.cli.ca_root:root_group", "The mesh's root: export, import, sign an authority."),
    "rotate": Lazy("meshagent.cli.ca_rotate:rotate", "Replace the root, or go over to another CA."),
}


@click.group(cls=LazyGroup, lazy=_COMMANDS)
def ca() -> None:
    """The mesh's CA: its roots, its signing authorities, and how a root is replaced.

    \b
    Example:  meshagent ca rotate --status
    """
