"""Logs: one event a change, JSON unless a person is watching, and never a secret."""

import sys

if "structlog" not in sys.modules and "rich" not in sys.modules:
    # structlog loads rich where it is installed, to colour tracebacks: 5 MB and 100 ms that an agent never uses.
    sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        import structlog  # noqa: F401
    finally:
        del sys.modules["rich"]
