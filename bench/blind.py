"""`python -m bench.blind PYTHON -m meshagent agent ...`: that agent, whose Envoy counts nothing.

For what counting costs by default. Access logs are turned off by the mesh document.
"""

from __future__ import annotations

import sys

from meshagent.cli.main import main
from meshagent.envoy import bootstrap

if __name__ == "__main__":
    bootstrap._STATS = (r"server\.live",)
    sys.argv = sys.argv[3:]
    main()
