"""The agent's own metrics, read from its status at each scrape, so that no loop has to count for them.

Every name here stands in docs/metrics.md; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


def metrics_text(status: dict[str, Any]) -> bytes:
    """The Prometheus text of one agent status (`api.status.agent_status`)."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Status(status))
    return generate_latest(registry)


class _Status(Collector):
    def __init__(self, status: dict[str, Any]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        status = self._status
        info = GaugeMetricFamily("meshagent_info", "1, with the versions as labels.", labels=["agent", "envoy"])
        info.add_metric([status["agent_version"], status["envoy_version"]], 1)
        yield info
        yield _gauge("meshagent_policy_revision", "Policy revision read from the store.", status["revision"])
        yield _gauge(
            "meshagent_policy_revision_applied", "Policy revision that Envoy applied.", status["applied_revision"]
        )
        yield _gauge("meshagent_store_ok", "1 while the store answers.", int(status["store_ok"]))
        yield _gauge("meshagent_problems", "Things that are not as they should be.", len(status["problems"]))
        yield _gauge("meshagent_rejected_resources", "Resources that Envoy refuses.", len(status["rejected"]))
        yield _gauge("meshagent_services", "Services that run on this host.", len(status["services"]))
        yield _gauge("meshagent_envoy_connected", "1 while Envoy is connected.", int(status["envoy"]["ready"]))
        restarts = CounterMetricFamily("meshagent_envoy_restarts", "Times that Envoy ended and was started again.")
        restarts.add_metric([], status["envoy"]["restarts"])
        yield restarts
        expiry = GaugeMetricFamily(
            "meshagent_svid_expires_at_seconds", "When each SVID ends (Unix time).", labels=["service"]
        )
        for service, svid in status["svids"].items():
            expiry.add_metric([service], datetime.fromisoformat(svid["expires_at"]).timestamp())
        yield expiry
        sent = CounterMetricFamily("meshagent_xds_sent", "Resources sent to Envoy since it connected.", labels=["type"])
        for name, count in status["sent"].items():
            sent.add_metric([name], count)
        yield sent


def _gauge(name: str, text: str, value: float) -> Metric:
    family = GaugeMetricFamily(name, text)
    family.add_metric([], value)
    return family
