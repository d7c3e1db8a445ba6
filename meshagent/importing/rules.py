"""What rules of a route have in common, whichever mesh they come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from meshagent.importing.fields import Fields
from meshagent.importing.parts import Data
from meshagent.model.route import RetryOn

RETRY_REASONS = frozenset(get_args(RetryOn))
SEGMENT = "a prefix ends at a segment here: {0} covers {0} and what is below it, not {0}x"


def path_prefix(fields: Fields, prefix: str, name: str) -> str:
    """A prefix as a route takes it. Istio's and Consul's are plain text, ours are of whole segments."""
    if prefix != "/":
        fields.tell("changed", SEGMENT.format(prefix.rstrip("/")), name)
    return prefix


def without_nothing(data: Data) -> Data:
    """The data without what was not given."""
    return {
        key: value
        for key, value in data.items()
        if value is not None and value is not False and value not in ((), [], {})
    }


def header_changes(fields: Fields) -> Data:
    """`set`, `add` and `remove` of headers by name."""
    if not fields:
        return {}
    return without_nothing(
        {
            "set": {name.lower(): value for name, value in fields.table("set").items()},
            "add": {name.lower(): value for name, value in fields.table("add").items()},
            "remove": [name.lower() for name in fields.texts("remove")],
        }
    )


def both_headers(request: Data, response: Data) -> Data | None:
    """The field `headers` of a rule or a target."""
    return without_nothing({"request": request, "response": response}) or None


def weights(fields: Fields, name: str, given: Sequence[float | None], whole: int = 100) -> list[int]:
    """Whole weights in the same proportion. Says what is odd about them: they do not add up, or one is 0."""
    numbers = [1.0 if each is None else each for each in given] if not any(given) and len(given) == 1 else list(given)
    plain = [each or 0.0 for each in numbers]
    if len(plain) > 1 or (given and given[0] is not None):
        total = sum(plain)
        if whole and len(plain) > 1 and abs(total - whole) > 0.05:
            fields.tell("mistake", f"the weights add up to {total:g}, not {whole}; they count in proportion", name)
        for index, each in enumerate(plain):
            if each == 0:
                fields.tell(
                    "mistake", f"the weight of entry {index} is 0: it is never called, also not as a fallback", name
                )
    factor = 1 if all(each.is_integer() for each in map(float, plain)) else 100
    return [round(each * factor) for each in plain]
