"""Whether a certificate may be given, as values: what was asked, what was granted, nothing else. Pure."""

from __future__ import annotations

from datetime import timedelta

from meshagent.model.names import parse_spiffe_id, spiffe_id
from meshagent.state.enrolment import GrantRecord


def service_refusal(asked: str, trust_domain: str, grant: GrantRecord | None, key_sha256: str) -> str:
    """Why a host with this key may not be certified as `asked`, or "". `grant` is the host's, None for none."""
    if grant is None:
        return "this host has no grant"
    if problem := holder_problem(grant, key_sha256):
        return problem
    parsed = parse_spiffe_id(asked)
    if parsed is None or asked != spiffe_id(trust_domain, parsed[1]):
        return f"not an identity of {trust_domain}"
    return "" if grant.allows(parsed[1]) else f"{grant.host} may not be {parsed[1]}"


def holder_problem(grant: GrantRecord, key_sha256: str) -> str:
    """Why the holder of this key is not the host that the grant is for, or ""."""
    if grant.denied:
        return f"{grant.host} is denied"
    if grant.key_sha256 and grant.key_sha256 != key_sha256:
        return f"{grant.host} has joined anew with another key"
    return ""


def workload_refusal(asked: str, trust_domain: str, services: frozenset[str]) -> str:
    """Why a workload with these services may not be certified as `asked`, or ""."""
    parsed = parse_spiffe_id(asked)
    if parsed is None or asked != spiffe_id(trust_domain, parsed[1]):
        return f"not an identity of {trust_domain}"
    return "" if parsed[1] in services else f"this workload may not be {parsed[1]}"


def longest(grant: GrantRecord, cap: timedelta) -> timedelta:
    """The longest life of a certificate for this grant."""
    return min(cap, timedelta(seconds=grant.max_ttl_seconds))
