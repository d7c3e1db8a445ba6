"""`meshagent demo`: the whole thing on this machine."""

from __future__ import annotations

import click


@click.command()
@click.option("--keep", is_flag=True, help="Leave everything running at the end, until Ctrl-C.")
def demo(*, keep: bool) -> int:
    """Start a mesh on this machine, show what it does, and take everything away again.

    \b
    Example:  meshagent demo --keep
    """
    from meshagent.demo.run import main

    return main(keep)
