"""Of how many doubted requests in a hundred there is a line in the access log: all of them, until they are too many. Pure."""

from __future__ import annotations

ALL = 100


def next_percent(percent: int, lines: int, most: int) -> int:
    """What holds next, after `lines` of so many percent in a span of time in which `most` are wanted. 1 to 100.

    It goes up again when all of them would be half of what is wanted, so that it does not change at every look.
    """
    would_be = lines * ALL // percent
    if would_be * 2 <= most:
        return ALL
    if lines <= most and percent < ALL:
        return percent
    return max(1, min(ALL, most * ALL // would_be))
