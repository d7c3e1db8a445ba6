"""What systemd hears."""

from __future__ import annotations

import socket

import pytest

from meshagent.host.notify import Notifier


@pytest.fixture(params=["file", "abstract"])
def systemd(request, tmp_path):
    """Its socket, and the address that it gives."""
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as heard:
        heard.bind(name if request.param == "file" else f"\0{name}")
        yield heard, name if request.param == "file" else f"@{name}"


def test_each_word_is_told_as_sd_notify_says(systemd):
    heard, address = systemd
    notifier = Notifier.of({"NOTIFY_SOCKET": address})
    notifier.ready("agent of web-1")
    notifier.reloading(12.5)
    notifier.stopping(20)
    notifier.alive()
    assert [heard.recv(200).decode() for _ in range(4)] == [
        "READY=1\nSTATUS=agent of web-1",
        "RELOADING=1\nMONOTONIC_USEC=12500000",
        "STOPPING=1\nEXTEND_TIMEOUT_USEC=20000000",
        "WATCHDOG=1",
    ]


def test_without_systemd_nobody_is_told():
    assert Notifier.of({}).address == ""
    Notifier.of({}).ready("x")


def test_a_socket_that_is_gone_ends_nobody(tmp_path):
    Notifier(str(tmp_path / "gone")).alive()


def test_a_full_socket_blocks_nobody(systemd):
    heard, address = systemd
    for _ in range(5000):
        Notifier(address).alive()
    assert heard.recv(200) == b"WATCHDOG=1"
