"""The clock of a simulated wearable: what it says about when it sampled is what was."""

from __future__ import annotations

import asyncio
import random
import time

import uvloop

from edgeward.device.enrolment import load_all
from edgeward.device.schedule import Schedule
from edgeward.device.wearable import Wearable, _Outgoing, _until


def test_it_never_wakes_before_its_time():
    async def live():
        for tenth_ms in range(1, 40):
            deadline = time.monotonic() + tenth_ms / 10_000
            await _until(deadline)
            assert time.monotonic() >= deadline

    uvloop.run(live())


def test_the_first_sample_is_never_told_later_than_it_was_taken(site):
    """The event loop's own clock counts whole milliseconds: by it a packet was sent before its last sample."""
    started = []

    def new_stream(start_ns):
        started.append(start_ns)
        raise RuntimeError("enough")

    async def live():
        folder = site.enrol("bed-1")
        enrolment = load_all(folder.parent, ("wearable",))[0]
        plan = Schedule(iter(()), 1)
        began, began_ns = time.monotonic(), time.time_ns()  # in this order: held up in between, the limit is later
        for number in range(20):
            device = Wearable(enrolment, 0, plan, new_stream, print, random.Random(1))
            phase_s = time.monotonic() - began + 0.00237
            await asyncio.wait([asyncio.create_task(device.run(began, phase_s))])
            assert started[number] <= began_ns + round(phase_s * 1e9) + 100_000

    uvloop.run(live())


def test_a_device_that_was_switched_off_brings_nothing_of_its_last_stream(site):
    """Also no packet that was on its way in that moment: it came first in the new stream."""

    async def live():
        folder = site.enrol("bed-1")
        enrolment = load_all(folder.parent, ("wearable",))[0]
        device = Wearable(enrolment, 0, Schedule(iter(()), 1), print, print, random.Random(1))
        begun, go_on = asyncio.Event(), asyncio.Event()

        class Client:
            async def publish(self, *_, **__):
                begun.set()
                await go_on.wait()

        device._reachable.set()
        device._keep(_Outgoing(b"old", []), 5)
        sending = asyncio.create_task(device._send(Client(), "topic"))
        await begun.wait()

        device._switch_off()
        go_on.set()
        await sending

        assert (list(device._backlog), list(device._sent)) == ([], [])
        assert device.count.sent == 1

    uvloop.run(live())
