"""Work that goes on until something else is wanted."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def until_set(moved: asyncio.Event, work: Coroutine[Any, Any, object]) -> None:
    """Do the work until it ends or the event is set, which cancels it. Raises what the work raises."""
    working = asyncio.create_task(work)
    waiting = asyncio.create_task(moved.wait())
    try:
        await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (working, waiting):
            task.cancel()
        outcome, _ = await asyncio.gather(working, waiting, return_exceptions=True)
    if isinstance(outcome, Exception):
        raise outcome
