"""What an unquoted YAML scalar means.

YAML 1.2 core schema (yaml.org/spec/1.2.2, chapter 10.3) less `.inf` and `.nan`: the values that JSON has. PyYAML's own
rules are YAML 1.1, where `on` and `no` are booleans, `2027-01-01` is a date and `1:30` is 90: all of these stay text.
"""

from __future__ import annotations

import math
import re

Scalar = None | bool | int | float | str

_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_OTHER_BASE = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_LONGEST_INTEGER = 18  # digits: fits 64 bits in every base
_LONGEST_FLOAT = 40


def resolve(text: str) -> Scalar:
    """The value of an unquoted scalar. Text that is no null, boolean or finite number is itself.

    A number with a leading zero (`0660`) is text, because YAML 1.1 reads it as octal and YAML 1.2 as decimal; and so is
    an integer of more than 18 digits, which other readers of the same file would round.
    """
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "+-.0123456789" or len(text) > _LONGEST_FLOAT:
        return text
    if _DECIMAL.fullmatch(text):
        return int(text) if len(text.lstrip("+-")) <= _LONGEST_INTEGER else text
    if _OTHER_BASE.fullmatch(text):
        return int(text, 0) if len(text) <= _LONGEST_INTEGER else text
    if _FLOAT.fullmatch(text) and math.isfinite(value := float(text)):
        return value
    return text
