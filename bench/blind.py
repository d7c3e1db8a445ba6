"""`python -m bench.blind PYTHON -m meshagent agent ...`: that agent, whose Envoy counts nothing.

For what counting costs by default. Access logs are turned off by the mesh document.
"""

from __future__ import annotations

import sys

from meshagent.cli.main import main
from meshagent.envoy import bootstrap
from meshagent.translate import connection


def blind() -> None:
    """Leave out all statistics, and those by cluster and route."""
    bootstrap._STATS = (r"server\.live",)
    counted = connection._manager
    connection._manager = lambda *words, **more: counted(*words, **(more | {"told_apart": False}))


if __name__ == "__main__":
    blind()
    sys.argv = sys.argv[3:]
    main()
