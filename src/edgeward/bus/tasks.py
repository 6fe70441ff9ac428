"""The end of tasks that talk over the bus."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

AGAIN_S = 0.2


async def end(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel tasks and wait until all have ended, however.

    A task that waits for an answer may not hear that it is cancelled: `asyncio.wait_for`, which the client library
    uses, swallows a cancellation that comes together with the answer (before Python 3.12, gh-86296). So it is told
    again until it has ended.
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        ended, left = await asyncio.wait(left, timeout=AGAIN_S)
        for task in ended:
            if not task.cancelled():
                task.exception()  # it has been looked at: whoever wants to tell of it does so before
