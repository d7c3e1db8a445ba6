"""The resource types of xDS by their type URL, the order in which they are pushed, and the rules that differ by type.

Nothing else in this room knows a type by name: a type that is not listed here is served too, after the others.
"""

from __future__ import annotations

from collections.abc import Iterable

_PREFIX = "type.googleapis.com/envoy."

CDS = _PREFIX + "config.cluster.v3.Cluster"
EDS = _PREFIX + "config.endpoint.v3.ClusterLoadAssignment"
LDS = _PREFIX + "config.listener.v3.Listener"
RDS = _PREFIX + "config.route.v3.RouteConfiguration"
SDS = _PREFIX + "extensions.transport_sockets.tls.v3.Secret"
ECDS = _PREFIX + "config.core.v3.TypedExtensionConfig"

# Make before break. ECDS comes before LDS: a deny must be in the filter before the listener update that drains a chain,
# else the drained client reconnects into the old rule. (Filters of listeners that are still unknown to the client are
# not subscribed to, so they are not sent early; they follow when it asks.) Removals go in the reverse order.
PUSH_ORDER = (CDS, EDS, SDS, ECDS, LDS, RDS)

# The specification knows a wildcard subscription ("*", or no name at all in the first request) for these only.
WILDCARD_TYPES = frozenset({CDS, LDS})

# One resource a response, so that a rejection names exactly one: the client's free text often does not. But for the first
# response to a client that holds none: an Envoy that follows another (hot restart) counts itself complete with it, and
# has the one before stop to listen (measured: what came later was refused for 30 ms).
ONE_PER_RESPONSE = frozenset({LDS})

# Removals that go before the additions of their type: an address must be free before another listener takes it.
REMOVED_FIRST = frozenset({LDS})

# Types that are never answered with `removed`. A removed route or extension configuration ends the wait of a warming
# listener without completing it: that listener, and at start every listener, stays down until the resource comes
# (Envoy 1.40: both still down after 40 s). Silence costs the initial_fetch_timeout, 15 s by default. A listener that is
# up ignores the removal anyway.
NEVER_REMOVED = frozenset({ECDS, RDS})

_SHORT = {CDS: "CDS", EDS: "EDS", LDS: "LDS", RDS: "RDS", SDS: "SDS", ECDS: "ECDS"}


def short_name(type_url: str) -> str:
    """`CDS` and so on for the types above; for any other the message's own name."""
    return _SHORT.get(type_url) or type_url.rpartition(".")[2]


def in_push_order(type_urls: Iterable[str]) -> list[str]:
    """The types sorted as they must be pushed; unlisted ones last, by name."""
    place = {type_url: index for index, type_url in enumerate(PUSH_ORDER)}
    return sorted(type_urls, key=lambda type_url: (place.get(type_url, len(place)), type_url))
