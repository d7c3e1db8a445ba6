"""Pydantic's errors in plain words, with a guess at what was meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from pydantic_core import ErrorDetails

_TYPES = {
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping of fields",
    "model_type": "must be a mapping of fields",
    "model_attributes_type": "must be a mapping of fields",
    "missing": "is missing",
    "timezone_aware": "must have a time zone, as in 2027-01-01T00:00:00Z",
    "datetime_type": "must be a time, as in 2027-01-01T00:00:00Z",
    "datetime_parsing": "must be a time, as in 2027-01-01T00:00:00Z",
    "datetime_from_date_parsing": "must be a time, as in 2027-01-01T00:00:00Z",
    "finite_number": "must be a finite number",
}
_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}
_LONGEST_SHOWN = 60


def words_for(error: ErrorDetails, fields: Iterable[str], kind: str) -> str:  # noqa: PLR0911 - one answer a kind of error
    """What is wrong, for a person. `fields` are the names that the model around the error knows."""
    code, context = error["type"], error.get("ctx", {})
    if code == "extra_forbidden":
        name = str(error["loc"][-1])
        return f"is not a field of {kind}" + did_you_mean(name, fields)
    if code == "literal_error":
        return _one_of(str(context["expected"]), error["input"])
    if code == "value_error":
        return str(context["error"]) + _instead(error["input"])
    if code in _BOUNDS:
        return f"must be {_BOUNDS[code][1]} {context[_BOUNDS[code][0]]}" + _instead(error["input"])
    if code == "string_pattern_mismatch":
        return f"must look like {context['pattern']}" + _instead(error["input"])
    if code in ("too_short", "too_long", "string_too_long", "string_too_short"):
        return _length(code, context)
    return _TYPES.get(code, error["msg"][:1].lower() + error["msg"][1:]) + (
        "" if code == "missing" else _instead(error["input"])
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean x?)` where something known is near, else nothing."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else ""


def _one_of(expected: str, given: object) -> str:
    names = [part.strip().strip("'") for part in expected.replace(" or ", ", ").split(",")]
    wanted = names[0] if len(names) == 1 else f"one of {', '.join(names)}"
    guess = did_you_mean(given, names) if isinstance(given, str) else ""
    return f"must be {wanted}{_instead(given)}{guess}"


def _instead(given: object) -> str:
    if isinstance(given, dict | list | tuple) or given is None:
        return ""
    text = repr(given) if isinstance(given, str) else str(given).lower() if isinstance(given, bool) else str(given)
    return f", not {text}" if len(text) <= _LONGEST_SHOWN else ""


def _length(code: str, context: dict[str, object]) -> str:
    what = "characters" if code.startswith("string") else "entries"
    if code.endswith("short"):
        return f"must have at least {context['min_length']} {what}"
    return f"must have at most {context['max_length']} {what}"
