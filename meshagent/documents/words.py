"""Pydantic's errors in plain words, with a guess at what was meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pydantic_core import ErrorDetails

_TIME = "must be a time with its zone, as in 2027-01-01T00:00:00Z"
_TYPES: Mapping[str, str] = {
    "string_type": "must be text",
    "path_type": "must be a path",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), "must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing", "finite_number"), "must be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    **dict.fromkeys(("list_type", "tuple_type", "set_type", "frozen_set_type"), "must be a list"),
    **dict.fromkeys(
        ("dict_type", "mapping_type", "model_type", "model_attributes_type"), "must be a mapping of fields"
    ),
    **dict.fromkeys(("datetime_type", "datetime_parsing", "datetime_from_date_parsing", "timezone_aware"), _TIME),
}
_BOUNDS: Mapping[str, tuple[str, str]] = {
    "greater_than_equal": ("ge", "must be at least {}"),
    "greater_than": ("gt", "must be more than {}"),
    "less_than_equal": ("le", "must be at most {}"),
    "less_than": ("lt", "must be less than {}"),
    "multiple_of": ("multiple_of", "must be a multiple of {}"),
    "string_pattern_mismatch": ("pattern", "must look like {}"),
}
_LENGTHS: Mapping[str, tuple[str, str]] = {
    "too_short": ("min_length", "must have at least {} entries"),
    "too_long": ("max_length", "must have at most {} entries"),
    "string_too_short": ("min_length", "must have at least {} characters"),
    "string_too_long": ("max_length", "must have at most {} characters"),
}
_WITHOUT_GIVEN = frozenset({"missing", "extra_forbidden", "union_tag_not_found", *_LENGTHS})
_LONGEST_SHOWN = 60
_LONGEST_GUESSED = 64


def words_for(errors: Sequence[ErrorDetails], fields: Iterable[str], kind: str) -> str:
    """What is wrong at one place. Several errors there are the branches of a union: each is another way to be right.

    `fields` are the names that the model around the place knows, `kind` is that model in plain words.
    """
    first = errors[0]
    if first["type"] == "extra_forbidden":
        return f"is not a field of {kind}" + _guess_field(str(first["loc"][-1]), tuple(fields))
    texts = list(dict.fromkeys(_text(error) for error in errors))
    if all(text.startswith("must be ") for text in texts):
        text = "must be " + " or ".join(text.removeprefix("must be ") for text in texts)
    else:
        text = "; or ".join(texts)
    if first["type"] in _WITHOUT_GIVEN or (first["type"] == "value_error" and not _takes_given(text)):
        return text
    choices = [choice for error in errors for choice in _choices(error)]
    given = first["input"]
    guess = did_you_mean(given, choices) if isinstance(given, str) else ""
    return text + instead(given) + (guess or _quotes(first["type"], given))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean x?)` where something known is near, else nothing. Case, `-` and `_` do not count."""
    by_plain = {_plain(each): each for each in known}
    if len(name) > _LONGEST_GUESSED:  # difflib's cost grows with the square of it
        return ""
    near = difflib.get_close_matches(_plain(name), by_plain, n=1, cutoff=0.7)  # 0.6 would offer id for kind
    return f" (did you mean {by_plain[near[0]]}?)" if near else ""


def instead(given: object) -> str:
    """`, not 'x'`: the value as given, where it is short. URLs with a password in them are not repeated."""
    if isinstance(given, dict | list | tuple):
        return f", not a {'mapping' if isinstance(given, dict) else 'list'}"
    if given is None:
        return ", and is empty"
    text = repr(given) if isinstance(given, str) else str(given).lower() if isinstance(given, bool) else str(given)
    secret = "@" in text and "://" in text
    return f", not {text}" if len(text) <= _LONGEST_SHOWN and not secret else ""


def _text(error: ErrorDetails) -> str:
    code, context = error["type"], error.get("ctx", {})
    for table in (_BOUNDS, _LENGTHS):
        if code in table:
            key, text = table[code]
            if context[key] == 1 and code.endswith("too_short"):
                return "must not be empty"
            limit = context[key]
            return text.format(int(limit) if isinstance(limit, float) and limit.is_integer() else limit)
    if code in _TYPES:
        return _TYPES[code]
    return _SPOKEN.get(code, _as_pydantic_says)(error, context)


def _missing(*_: object) -> str:
    return "is missing"


def _one_of(error: ErrorDetails, _: Mapping[str, Any]) -> str:
    names = _choices(error)
    return f"must be {names[0]}" if len(names) == 1 else f"must be one of {', '.join(names)}"


def _raised(_: ErrorDetails, context: Mapping[str, Any]) -> str:
    return str(context["error"])


def _as_pydantic_says(error: ErrorDetails, _: Mapping[str, Any]) -> str:
    text = re.sub(r"^Input should be ", "must be ", error["msg"])
    return text[:1].lower() + text[1:]


_SPOKEN: Mapping[str, Callable[[ErrorDetails, Mapping[str, Any]], str]] = {
    "missing": _missing,
    "union_tag_not_found": _missing,
    "literal_error": _one_of,
    "enum": _one_of,
    "union_tag_invalid": _one_of,
    "value_error": _raised,
    "assertion_error": _raised,
}


def _choices(error: ErrorDetails) -> list[str]:
    """The values that a literal knows: pydantic lists them as `'allow' or 'deny'`."""
    context = error.get("ctx", {})
    listed = str(context.get("expected") or context.get("expected_tags") or "")
    return re.findall(r"'([^']*)'", listed) or ([listed.lower()] if listed else [])


def _takes_given(text: str) -> bool:
    """Whether `, not 'x'` can follow: not after a sentence that goes on to explain."""
    return text.startswith("must be") and ": " not in text and ", not " not in text


def _quotes(code: str, given: object) -> str:
    if code == "string_type" and isinstance(given, bool | int | float):
        return " (write it in quotes)"
    if code == "int_type" and isinstance(given, str) and given.isascii() and given.isdigit():
        octal = given.startswith("0") and set(given) <= set("01234567")
        return f" (octal is written 0o{given.lstrip('0')})" if octal and given.strip("0") else " (without quotes)"
    return ""


def _guess_field(name: str, fields: tuple[str, ...]) -> str:
    return did_you_mean(name, fields) or (f" (its fields: {', '.join(fields)})" if 0 < len(fields) <= 12 else "")


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).lower()
