"""The names by which live requests are asked of Envoy: what translation puts there and what the agent switches."""

from __future__ import annotations

TAP_CLUSTER = "tap"  # of the bootstrap: the socket on which the agent takes them while somebody watches
_KEY = "meshagent.tap."


def tap_key(service: str) -> str:
    """The runtime key that is 100 while requests that the service's proxy sees are watched, and absent otherwise."""
    return f"{_KEY}{service}"


def tapped(key: str) -> str | None:
    """The service of such a key; None for any other key."""
    return key.removeprefix(_KEY) if key.startswith(_KEY) else None


def tap_name(side: str, service: str) -> str:
    """How Envoy calls the requests of one side of a service: inbound, outbound, external or gateway."""
    return f"{side} {service}"


def side_and_service(name: str) -> tuple[str, str]:
    """What `tap_name` put together."""
    side, _, service = name.partition(" ")
    return side, service
