"""The agent's own metrics, read from its status at each scrape, so that no loop has to count for them.

Every name here stands in docs/metrics.md; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from meshagent.api.series import traffic_text


def metrics_text(status: dict[str, Any], traffic: Mapping[str, Any] | None = None, most: int = 0) -> bytes:
    """The Prometheus text of one agent status (`api.status.agent_status`) and of the traffic, if Envoy told any.

    `most`: how many edges of the traffic are told apart.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Page(status))
    page: bytes = generate_latest(registry)
    return page if traffic is None else page + traffic_text(traffic, most).encode()


class _Page(Collector):
    def __init__(self, status: dict[str, Any]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        yield from _agent(self._status)


def _agent(status: dict[str, Any]) -> Iterator[Metric]:
    info = GaugeMetricFamily("meshagent_info", "1, with the versions as labels.", labels=["agent", "envoy"])
    info.add_metric([status["agent_version"], status["envoy_version"]], 1)
    yield info
    yield _gauge("meshagent_policy_revision", "Policy revision read from the store.", status["revision"])
    yield _gauge("meshagent_policy_revision_applied", "Policy revision that Envoy applied.", status["applied_revision"])
    yield _gauge("meshagent_store_ok", "1 while the store answers.", int(status["store_ok"]))
    yield from _policy(status)
    yield _gauge("meshagent_problems", "Things that are not as they should be.", len(status["problems"]))
    yield _gauge("meshagent_rejected_resources", "Resources that Envoy refuses.", len(status["rejected"]))
    yield _gauge("meshagent_services", "Services that run on this host.", len(status["services"]))
    yield _gauge("meshagent_envoy_connected", "1 while Envoy is connected.", int(status["envoy"]["ready"]))
    restarts = CounterMetricFamily("meshagent_envoy_restarts", "Times that Envoy ended and was started again.")
    restarts.add_metric([], status["envoy"]["restarts"])
    yield restarts
    yield from _svids(status["svids"])
    yield from _certificates(status["gateway_certificates"])
    yield from _trust(status)
    yield from _limits(status["limits"])
    share = "Of the requests to a service, the share that its rollout leads to the new subset, 0 to 1."
    ratio = GaugeMetricFamily("meshagent_rollout_ratio", share, labels=["service", "subset", "phase"])
    for row in status["rollouts"]:
        ratio.add_metric([row["service"], row["to"], row["phase"]], row["percent"] / 100)
    yield ratio
    sent = CounterMetricFamily("meshagent_xds_sent", "Resources sent to Envoy since it connected.", labels=["type"])
    for name, count in status["sent"].items():
        sent.add_metric([name], count)
    yield sent
    if status["dns"]:
        asked = CounterMetricFamily("meshagent_dns_queries", "DNS queries by how they ended.", labels=["result"])
        for result, count in status["dns"]["queries"].items():
            asked.add_metric([result], count)
        yield asked


def _policy(status: dict[str, Any]) -> Iterator[Metric]:
    """How fresh what this host knows is, and how long it took to be in force."""
    heard = status["heard_at"]
    text = "When the store said its last word (Unix time); 0: nothing yet."
    yield _gauge("meshagent_store_heard_at_seconds", text, datetime.fromisoformat(heard).timestamp() if heard else 0)
    stale = status["stale_since"]
    text = "Since when the store does not answer (Unix time); 0 while it does."
    yield _gauge("meshagent_store_stale_since_seconds", text, datetime.fromisoformat(stale).timestamp() if stale else 0)
    took = status["propagation"]
    text = "From reading a policy revision to Envoy's having applied it."
    applied = HistogramMetricFamily("meshagent_policy_apply_seconds", text)
    applied.add_metric([], took["buckets"], took["seconds"])
    rejected = CounterMetricFamily("meshagent_xds_rejections", "Times that Envoy refused resources.")
    rejected.add_metric([], took["rejections"])
    yield from (applied, rejected)


def _svids(svids: dict[str, Any]) -> Iterator[Metric]:
    expiry = GaugeMetricFamily(
        "meshagent_svid_expires_at_seconds", "When each SVID ends (Unix time).", labels=["service"]
    )
    overdue = GaugeMetricFamily(
        "meshagent_svid_overdue", "1 while an SVID is not renewed after 66 % of its life.", labels=["service"]
    )
    unserved = GaugeMetricFamily(
        "meshagent_svid_unserved", "1 while Envoy serves another certificate than was issued.", labels=["service"]
    )
    renewals = CounterMetricFamily("meshagent_svid_renewals", "SVIDs issued and renewed.", labels=["service"])
    failures = CounterMetricFamily("meshagent_svid_renewal_failures", "Renewals that failed.", labels=["service"])
    for service, svid in svids.items():
        expiry.add_metric([service], datetime.fromisoformat(svid["expires_at"]).timestamp())
        overdue.add_metric([service], int(svid["overdue"]))
        unserved.add_metric([service], int(not svid["served"]))
        renewals.add_metric([service], svid["renewals"])
        failures.add_metric([service], svid["failures"])
    yield from (expiry, overdue, unserved, renewals, failures)


def _certificates(rows: dict[str, Any]) -> Iterator[Metric]:
    labels = ["certificate"]
    expiry = GaugeMetricFamily(
        "meshagent_gateway_certificate_expires_at_seconds",
        "When each certificate of a gateway ends (Unix time).",
        labels=labels,
    )
    overdue = GaugeMetricFamily(
        "meshagent_gateway_certificate_overdue",
        "1 while one that is ordered by ACME is not renewed after 75 % of its life.",
        labels=labels,
    )
    failures = CounterMetricFamily(
        "meshagent_gateway_certificate_order_failures", "Orders by ACME that failed.", labels=labels
    )
    for name, row in rows.items():
        if row["expires_at"]:
            expiry.add_metric([name], datetime.fromisoformat(row["expires_at"]).timestamp())
        if row["ordered"]:
            overdue.add_metric([name], int(row["overdue"]))
            failures.add_metric([name], row["failures"])
    yield from (expiry, overdue, failures)


def _trust(status: dict[str, Any]) -> Iterator[Metric]:
    roots = GaugeMetricFamily(
        "meshagent_root_expires_at_seconds", "When each root of the mesh ends (Unix time).", labels=["root"]
    )
    for root in status["roots"]:
        roots.add_metric([root["digest"][:16]], datetime.fromisoformat(root["expires_at"]).timestamp())
    yield roots
    bundle = GaugeMetricFamily(
        "meshagent_trust_bundle_info", "1, with the digest of the trust bundle that Envoy applied.", labels=["digest"]
    )
    bundle.add_metric([status["bundle"]], 1)
    yield bundle
    if status["ca_skew_seconds"] is not None:
        text = "Seconds that the authority's clock is ahead of this host's."
        yield _gauge("meshagent_ca_clock_skew_seconds", text, status["ca_skew_seconds"])


def _limits(rows: list[dict[str, Any]]) -> Iterator[Metric]:
    labels = ["source", "upstream", "limit"]
    text = "Share of a limit towards an upstream that is left, 0 to 1."
    left = GaugeMetricFamily("meshagent_upstream_limit_left_ratio", text, labels=labels)
    text = "Times that a limit towards an upstream was reached."
    reached = CounterMetricFamily("meshagent_upstream_limit_reached", text, labels=labels)
    for row in rows:
        left.add_metric([row[each] for each in labels], row["left"] / row["allowed"])
        reached.add_metric([row[each] for each in labels], row["reached"])
    yield from (left, reached)


def _gauge(name: str, text: str, value: float) -> Metric:
    family = GaugeMetricFamily(name, text)
    family.add_metric([], value)
    return family
