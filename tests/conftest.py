"""What holds for all tests."""

import signal
from collections.abc import Iterator

import hypothesis
import pytest
import structlog

hypothesis.settings.register_profile(
    "meshagent", deadline=None
)  # how long an example takes says how busy the machine is
hypothesis.settings.load_profile("meshagent")

# A shell starts what runs in its background with SIGINT ignored, and so would every process that a test starts. A
# handler of our own is not inherited: they get the default, as under a terminal.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _logs_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test that starts a daemon in this process sets up logging: that must end with it, whichever loggers were used."""
    configure = structlog.configure
    monkeypatch.setattr(
        structlog, "configure", lambda **given: configure(**{**given, "cache_logger_on_first_use": False})
    )
    yield
    structlog.reset_defaults()
