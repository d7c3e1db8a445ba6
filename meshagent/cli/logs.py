"""The log of a short command: warnings and errors of the rooms below, in words on stderr. Stdout is for data."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from types import ModuleType


def import_structlog() -> Any:
    """structlog without rich, which it takes wherever it is installed: measured 60 ms and 5.6 MB for nothing here."""
    if "structlog" not in sys.modules and "rich" not in sys.modules:
        sys.modules["rich"] = cast("ModuleType", None)  # makes `import rich` an ImportError, which structlog expects
        try:
            import structlog
        finally:
            del sys.modules["rich"]
    import structlog

    return structlog


def quiet_log() -> None:
    """Send warnings and errors to stderr, and nothing else anywhere."""
    structlog = import_structlog()
    warning = 30
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())],
        wrapper_class=structlog.make_filtering_bound_logger(warning),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
