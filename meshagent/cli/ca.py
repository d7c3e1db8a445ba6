"""`meshagent ca`: the mesh's CA."""

from __future__ import annotations

import click

from meshagent.cli.lazy import Lazy, LazyGroup


@click.group(
    cls=LazyGroup,
    lazy={"rotate": Lazy("meshagent.cli.ca_rotate:rotate", "Replace the root, or go over to another CA.")},
)
def ca() -> None:
    """The mesh's CA: its root and how it is replaced.

    \b
    Example:  meshagent ca rotate --status
    """
