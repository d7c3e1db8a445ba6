"""Where a host's roots are found."""

from __future__ import annotations

from meshagent.host.roots import system_roots


def test_the_first_place_that_has_a_file_is_taken(tmp_path):
    for place in ("etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "etc/ssl/cert.pem"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text("roots")
    assert system_roots(tmp_path) == "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"


def test_without_any_file_the_usual_place_is_named_so_that_nobody_is_believed(tmp_path):
    assert system_roots(tmp_path) == "/etc/ssl/certs/ca-certificates.crt"
