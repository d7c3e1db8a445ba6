"""What Prometheus is told of an authority."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.exposition import generate_latest


class Metrics:
    """Counters and gauges of one authority, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.signed = Counter(
            "meshagent_authority_signed_total", "Certificates given.", ["kind"], registry=self.registry
        )
        self.refused = Counter(
            "meshagent_authority_refused_total", "Requests refused.", ["reason"], registry=self.registry
        )
        self.intermediate = Gauge(
            "meshagent_authority_intermediate_expiry_seconds",
            "Seconds until the authority's own certificate ends; 0 without one.",
            registry=self.registry,
        )
        self.store = Gauge(
            "meshagent_authority_store_followed", "1 while the store is followed, else 0.", registry=self.registry
        )
        self.hosts = Gauge("meshagent_authority_hosts", "Hosts that have a grant.", registry=self.registry)

    def page(self) -> bytes:
        """The page as Prometheus reads it."""
        return generate_latest(self.registry)
