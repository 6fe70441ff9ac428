"""Tasks end when they are told to, also those that do not hear it at first."""

from __future__ import annotations

import asyncio

from edgeward.bus.tasks import end


async def test_a_task_that_swallows_a_cancellation_is_told_again() -> None:
    swallowed = 0

    async def deaf() -> None:
        nonlocal swallowed
        while swallowed < 3:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:  # as asyncio.wait_for does when the answer comes at that moment
                swallowed += 1
        await asyncio.sleep(60)

    async def failing() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise OSError("while it ends")

    tasks = [asyncio.create_task(work) for work in (deaf(), failing(), asyncio.sleep(0))]
    await asyncio.sleep(0)

    async with asyncio.timeout(10):
        await end(tasks)

    assert swallowed == 3
    assert all(task.done() for task in tasks)


async def test_without_tasks_it_is_over_at_once() -> None:
    await end([])
