"""Where this host keeps the roots that it believes."""

from __future__ import annotations

from pathlib import Path

# As distributions ship them: Debian and its kin, Red Hat's, SUSE's, Alpine's.
_PLACES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


def system_roots(below: Path = Path("/")) -> str:
    """The file of roots; where there is none, the usual one, which Envoy then refuses to read."""
    found = (place for place in _PLACES if (below / place.lstrip("/")).is_file())
    return next(found, _PLACES[0])
