"""Second tries of a request: those that are always safe, those that a rule asks for, and hedging."""

from __future__ import annotations

from envoy.config.route.v3.route_components_pb2 import RetryPolicy, RouteAction
from envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2 import PreviousHostsPredicate
from envoy.extensions.retry.priority.previous_priorities.v3.previous_priorities_config_pb2 import (
    PreviousPrioritiesConfig,
)

from meshagent.model.route import Retry
from meshagent.translate.settings import pack

_SAFE = ("connect-failure", "refused-stream", "reset-before-request")
# The proxy beside an app says by it that the app never saw the request. Callers' proxies take it away (ADR 0032).
UNREACHED = "x-mesh-unreached"


def safe_retries(policy: RetryPolicy, attempts: int, *, elsewhere: bool) -> None:
    """Retries of what the other side certainly did not see: an instance that is leaving costs no request.

    `elsewhere`: on another instance than those that failed. Where there is one alone, asking for it costs 2 % of a request.
    """
    policy.retry_on = ",".join(_SAFE)
    policy.num_retries.value = attempts
    # A try that waits counts against the budget of retries: with 5 ms, one dead host of two used it up now and then.
    policy.retry_back_off.base_interval.FromMilliseconds(1 if elsewhere else 5)
    policy.retry_back_off.max_interval.FromMilliseconds(100)
    if elsewhere:
        _where_the_app_is_reached(policy)
        _elsewhere(policy)


def retried(policy: RetryPolicy, asked: Retry) -> None:
    """Retries as a rule asks for them, within the budget of the cluster."""
    codes = ("retriable-status-codes",) if asked.statuses else ()
    policy.retry_on = ",".join((*asked.on, *codes))
    policy.retriable_status_codes.extend(asked.statuses)
    policy.num_retries.value = asked.attempts
    policy.retry_back_off.base_interval.FromTimedelta(asked.backoff.base)
    policy.retry_back_off.max_interval.FromTimedelta(asked.backoff.max)
    if asked.per_try_timeout is not None:
        policy.per_try_timeout.FromTimedelta(asked.per_try_timeout)
    for method in asked.methods:
        policy.retriable_request_headers.add(name=":method").string_match.exact = method
    if "connect-failure" in asked.on:
        _where_the_app_is_reached(policy)
    _elsewhere(policy)


def hedged(action: RouteAction) -> None:
    """A try that lasts too long goes on beside the next one."""
    action.hedge_policy.hedge_on_per_try_timeout = True


def onward(policy: RetryPolicy, after: int) -> None:
    """After so many tries, go on in the next tier or service: the first may be dead and not be known to be."""
    policy.retry_priority.name = "envoy.retry_priorities.previous_priorities"
    pack(policy.retry_priority.typed_config, PreviousPrioritiesConfig(update_frequency=after))


def _where_the_app_is_reached(policy: RetryPolicy) -> None:
    """A connection to an instance ends at its proxy: that it cannot reach its app is a failure to connect too."""
    policy.retry_on += ",retriable-headers"
    policy.retriable_headers.add(name=UNREACHED, present_match=True)


def _elsewhere(policy: RetryPolicy) -> None:
    previous = policy.retry_host_predicate.add(name="envoy.retry_host_predicates.previous_hosts")
    pack(previous.typed_config, PreviousHostsPredicate())
    # A dead host fails so fast that it looks the least busy, and the balancer draws it three times in four. With 3 draws
    # the retries stayed on it, and 8 of 35 failed while another instance was well; with 32 draws 0 of 57 (measured).
    policy.host_selection_retry_max_attempts = 32
