"""The log of a short command: warnings and errors of the rooms below, in words on stderr. Stdout is for data."""

from __future__ import annotations

import logging
import sys


def quiet_log() -> None:
    """Send warnings and errors to stderr, and nothing else anywhere."""
    import meshagent.telemetry  # noqa: F401 - before structlog, see there

    import structlog  # isort: skip

    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
