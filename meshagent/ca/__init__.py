"""Everything X.509. No other room looks inside a certificate, but for the authority, which shows and is shown some.

A provider is a module with an opener; it is imported only when it is chosen, so what it needs costs nobody else a
thing.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Protocol, cast

from meshagent.ca.base import Authority
from meshagent.errors import UsageProblem

__all__ = ["AUTHORITIES", "ENTRY_POINTS", "Opener", "known_providers", "open_authority"]

AUTHORITIES: Mapping[str, str] = {
    "authority": "meshagent.ca.authority:open_authority",
    "builtin": "meshagent.ca.builtin:open_authority",
    "consul": "meshagent.ca.consul:open_authority",
    "exec": "meshagent.ca.exec:open_authority",
    "files": "meshagent.ca.files:open_authority",
    "vault": "meshagent.ca.vault:open_authority",
}
ENTRY_POINTS = "meshagent.authorities"  # other packages offer openers under this group


class Opener(Protocol):
    """What a provider's module offers. Raises UsageProblem for settings that cannot be used. `clock` gives UTC."""

    def __call__(
        self, settings: Mapping[str, object], *, trust_domain: str, data_dir: Path, clock: Callable[[], datetime]
    ) -> Authority:
        """Opens the authority; what it needs over the network is fetched later, when it is asked."""


def open_authority(
    provider: str,
    settings: Mapping[str, object],
    *,
    trust_domain: str,
    data_dir: Path,
    clock: Callable[[], datetime],
) -> Authority:
    """The authority that the agent's `ca` setting names; `settings` are its other keys.

    Raises UsageProblem when the provider is unknown, cannot be imported, or does not take the settings.
    """
    opener = _load(provider)
    own = {key: value for key, value in settings.items() if key != "provider"}
    return opener(own, trust_domain=trust_domain, data_dir=data_dir, clock=clock)


def known_providers() -> tuple[str, ...]:
    """The names of all providers, those of other packages included."""
    return tuple(sorted({*AUTHORITIES, *importlib.metadata.entry_points(group=ENTRY_POINTS).names}))


def _load(provider: str) -> Opener:
    """A built-in name cannot be taken over by another package."""
    target = AUTHORITIES.get(provider)
    if target is None:
        found = importlib.metadata.entry_points(group=ENTRY_POINTS, name=provider)
        if not found:
            raise UsageProblem(
                f"the CA provider {provider!r} is not known",
                next_step=f"set ca.provider to {' or '.join(known_providers())}",
            )
        target = next(iter(found)).value
    module, _, name = target.partition(":")
    try:
        return cast(Opener, getattr(importlib.import_module(module), name))
    except (ImportError, AttributeError) as error:
        raise UsageProblem(
            f"the CA provider {provider!r} cannot be loaded: {error}", next_step=f"install what provides {module}"
        ) from error
