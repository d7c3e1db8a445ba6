"""`python -m bench [NAME ...]`: run the benchmarks named, or all."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from pathlib import Path

NAMES = ("propagation", "footprint", "dataplane", "scale", "fanout", "applying", "upstreams", "tapping", "instructions")


def main() -> None:
    """Run, print, keep."""
    wanted = sys.argv[1:] or NAMES
    for name in wanted:
        if name not in NAMES:
            sys.exit(f"no benchmark {name}: there are {', '.join(NAMES)}")
        print(f"\n== {name}")
        result = asyncio.run(importlib.import_module(f"bench.{name}").run())
        target = Path("bench/results") / f"{name}.json"
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(result, indent=1))


main()
