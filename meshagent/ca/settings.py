"""A provider's settings, which are the further keys of `ca` in the agent's configuration."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BeforeValidator, Field

from meshagent.documents.validate import validate
from meshagent.errors import UsageProblem
from meshagent.model.names import Model

M = TypeVar("M", bound=Model)


def read_settings(provider: str, model: type[M], settings: Mapping[str, object]) -> M:
    """The settings as their model. Raises UsageProblem with all that is wrong with them."""
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}
    checked = validate(model, plain, strict=False)
    if not isinstance(checked, tuple):
        return checked
    problems = (": ".join(filter(None, (".".join(map(str, ("ca", *each.path))), each.message))) for each in checked)
    raise UsageProblem(
        "\n".join(problems), next_step=f"docs/authorities.md has the settings of the CA provider {provider}"
    )


def _split(given: object) -> object:
    """An environment variable holds a command as one text."""
    return shlex.split(given) if isinstance(given, str) else given


Command = Annotated[tuple[str, ...], BeforeValidator(_split), Field(min_length=1, max_length=64)]
