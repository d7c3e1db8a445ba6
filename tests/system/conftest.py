"""What holds for all system tests."""

from __future__ import annotations

import gc
import sys
import warnings
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# The corpus stands beside this repository, not in it: without it there is nothing there to collect.
collect_ignore = [] if (HERE.parents[2] / "shared" / "corpus").is_dir() else ["test_import.py"]


def pytest_collection_modifyitems(items):
    """Sockets that a killed peer left half open are what these tests are about: they may be collected unclosed."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.system)
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish():
    """What is still unclosed is collected here, before pytest counts it without any of the marks above."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        try:
            for _ in range(3):
                gc.collect()
        finally:
            sys.unraisablehook = hook
