"""What holds for all system tests."""

from __future__ import annotations

import gc
import sys
import threading
import warnings
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# What takes longest begins first, so that no worker is left alone with it at the end.
LONGEST = (
    "test_faults_store",
    "test_rotation",
    "test_vm_demo",
    "test_systemd",
    "test_faults_crowd",
    "test_dns_resolved",
    "test_faults_network",
    "test_rotation_authority",
    "test_faults_ca",
    "test_faults_host",
    "test_routes_hosts",
    "test_cases_live",
    "test_scale",
    "test_enrolment",
    "test_consul_connect",
    "test_ui",
    "test_faults",
    "test_demo",
    "test_attacks_ca",
    "test_capture",
)
_PATIENCE = 30.0  # seconds
# The corpus stands beside this repository, not in it: without it there is nothing there to collect.
collect_ignore = [] if (HERE.parents[2] / "shared" / "corpus").is_dir() else ["test_import.py"]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Sockets that a killed peer left half open are what these tests are about: they may be collected unclosed."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.system)
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish():
    """What is still unclosed is collected here, before pytest counts it without any of the marks above.

    In a thread that nobody waits long for: a gRPC channel that a failed test left with a call under way waits for the end of
    that call, and its loop is gone (seen once: the whole run stood still for it).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        try:
            collecting = threading.Thread(target=_collect, daemon=True)
            collecting.start()
            collecting.join(_PATIENCE)
        finally:
            sys.unraisablehook = hook


def _collect():
    for _ in range(3):
        gc.collect()
