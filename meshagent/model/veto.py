"""What another mesh says of calls to our services: where its intentions count too, the stricter answer wins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Veto:
    """Who may call one destination as far as the other mesh is concerned: by source, and everybody else."""

    named: Mapping[str, bool] = field(default_factory=dict)
    others: bool = False

    def allows(self, source: str) -> bool:
        """Whether the other mesh lets this source call."""
        return self.named.get(source, self.others)


NOBODY_MAY = Veto()


@dataclass(frozen=True, slots=True)
class Vetoes:
    """Each destination's. `required`: the other mesh has a say here, so what is not known of it is no."""

    required: bool = False
    known: Mapping[str, Veto] = field(default_factory=dict)

    def of(self, destination: str) -> Veto | None:
        """The destination's veto; None where nobody else has a say."""
        return self.known.get(destination, NOBODY_MAY) if self.required else None


NO_VETOES = Vetoes()
