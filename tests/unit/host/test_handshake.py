"""What the words of TLS mean; whole handshakes: tests/system/test_call_walk.py."""

from __future__ import annotations

import ssl

import pytest

from meshagent.host.handshake import _alert


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", "tls-expired"),
        ("TLSV1_ALERT_UNKNOWN_CA", "tls-unknown-root"),
        ("WRONG_VERSION_NUMBER", "tls"),
    ],
)
def test_what_the_other_side_says_of_a_certificate_has_its_code(reason, code):
    error = ssl.SSLError(1, "said")
    error.reason = reason
    assert _alert(error)[0] == code
